//! What is wrong with a text that is no YAML, said for who wrote it.

use granit_parser::{ErrorKind, ScanError};

/// What is wrong.
pub(super) fn of(error: &ScanError) -> String {
    use ErrorKind as Kind;
    let known = match error.kind() {
        Kind::TabNotAllowed | Kind::TabInBlockIndentation | Kind::TabInIndentation | Kind::TabInPlainScalar => {
            "a tab stands where YAML takes spaces only"
        }
        Kind::TabAtBlockScalarStart => "a text of several lines begins with a tab, where YAML takes spaces only",
        Kind::UnknownAnchor => "an alias (*name) stands for an anchor (&name) that is not there",
        Kind::UnclosedQuotedScalar => "a quote is opened and never closed",
        Kind::RecursionLimitExceeded => return too_deep(),
        Kind::ExpectedDocumentStart => "this belongs to no field: its indentation or the line before it is wrong",
        Kind::InvalidDocumentEnd => "nothing may stand behind `...` on its line",
        Kind::ExpectedBlockMappingKey | Kind::SimpleKeyExpected | Kind::InvalidSimpleKey => {
            "a field such as `name: value` is expected here, with the indentation of the fields around it"
        }
        Kind::ExpectedBlockSequenceEntry => {
            "an entry of the list is expected here: `- ` with the indentation of the others"
        }
        Kind::ExpectedFlowMappingSeparator => "`,` or `}` is expected here",
        Kind::ExpectedFlowSequenceSeparator => "`,` or `]` is expected here",
        Kind::InvalidIndentation | Kind::InvalidFlowScalarIndent | Kind::InvalidQuotedScalarIndent => {
            "the indentation is wrong"
        }
        Kind::InvalidBlockScalarIndent => "a line of this text has less indentation than its first one",
        Kind::MappingValueNotAllowed | Kind::InvalidColonPlacement => {
            "`: ` may not stand here; put the text in quotes, or begin a line for the field"
        }
        Kind::MappingKeyNotAllowed => "a field may not begin here; put the text in quotes, or begin a line for it",
        Kind::BlockSequenceEntryNotAllowed | Kind::BlockEntryInFlowCollection => {
            "`- ` may not stand here; begin a line for the entry of the list"
        }
        Kind::UnknownQuotedScalarEscape => "a text in double quotes has an escape (\\) that YAML does not know",
        Kind::InvalidTrailingSingleQuotedScalar | Kind::InvalidTrailingDoubleQuotedScalar => {
            "something stands behind a text in quotes"
        }
        Kind::DocumentIndicatorInQuotedScalar => "a text in quotes is not closed before `---` or `...`",
        Kind::BomInsideDocument => "a byte order mark stands within the document",
        Kind::UnclosedFlowCollection { open } => return format!("the bracket {open} is opened and never closed"),
        Kind::MismatchedFlowCollectionEnd { open, close } => return format!("the bracket {open} is closed by {close}"),
        Kind::MisplacedFlowCollectionEnd => "a bracket is closed that was not opened",
        Kind::UnexpectedCharacter { character } => {
            return format!("{character:?} may not begin a value; put the text in quotes");
        }
        _ => return format!("this is no YAML: {}", error.info()),
    };
    known.to_owned()
}

/// What is nested too deep.
pub(super) fn too_deep() -> String {
    format!("values are nested more than {} deep here, deeper than any manifest", crate::object::MAX_DEPTH)
}
