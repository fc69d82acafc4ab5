//! Every form in which a `:path` comes, and the dynamic table behind it.

use super::*;

/// `/a#b` and `/a/b?c=d` as Huffman codes.
const BAD: &[u8] = &[0x60, 0x7f, 0xf5, 0x1f];
const GOOD: &[u8] = &[0x60, 0x6c, 0x47, 0xfe, 0x12, 0x09, 0x3f];

/// A literal: how it is kept, its name's index or its name, its value, and whether that is a Huffman code.
fn literal(kept: u8, name: Result<u8, &[u8]>, value: &[u8], huffman: bool) -> Vec<u8> {
    let mut field = vec![kept | name.unwrap_or(0)];
    if let Err(name) = name {
        field.push(name.len() as u8 | if name[0] == 0xb9 { 0x80 } else { 0 });
        field.extend_from_slice(name);
    }
    field.push(value.len() as u8 | if huffman { 0x80 } else { 0 });
    field.extend_from_slice(value);
    field
}

const INSERTED: u8 = 0x40;
const PLAIN: u8 = 0;
const NEVER: u8 = 0x10;

/// What the watch says of the blocks of one connection, each a frame, whichever way that is cut.
fn said(blocks: &[Vec<u8>]) -> Vec<bool> {
    let whole = said_in_pieces(blocks, 1_000);
    for piece in [1, 2, 3, 7] {
        assert_eq!(said_in_pieces(blocks, piece), whole, "pieces of {piece}");
    }
    whole
}

fn said_in_pieces(blocks: &[Vec<u8>], piece: usize) -> Vec<bool> {
    // A priority that looks like a field.
    let blocks = blocks.iter().map(|block| ([0x84; 4], block.clone()));
    said_of(blocks, piece)
}

/// The same with the stream that each depends on; each is stream 1.
fn said_of(blocks: impl Iterator<Item = ([u8; 4], Vec<u8>)>, piece: usize) -> Vec<bool> {
    let mut watch = PathWatch::default();
    let mut all = |(dependency, block): ([u8; 4], Vec<u8>)| {
        // Padding that looks like a field.
        let bytes = [&[4][..], &dependency, &[0x84], &block, &[0x84; 4]].concat();
        let len = bytes.len() as u32;
        let frame = FrameHead { kind: HEADERS, flags: PADDED | PRIORITY | END_HEADERS, len, stream: 1 };
        let (mut left, mut found) = (len, false);
        for part in bytes.chunks(piece) {
            left -= part.len() as u32;
            found |= watch.payload(frame, part, left);
        }
        found
    };
    blocks.map(&mut all).collect()
}

#[test]
fn a_block_that_is_not_decoded_leaves_the_table_alone() {
    // The newest entry is the path with a fragment still: the block between is of a stream that depends on itself.
    let insert = |name, value| literal(INSERTED, name, value, false);
    let blocks = [([0; 4], insert(Ok(4), b"/a#b")), ([0, 0, 0, 1], insert(Err(b"x"), b"y")), ([0; 4], vec![62 | 0x80])];
    for piece in [1, 2, 3, 7, 1_000] {
        assert_eq!(said_of(blocks.clone().into_iter(), piece), [true, false, true], "pieces of {piece}");
    }
}

#[test]
fn a_fragment_is_found_in_every_form() {
    let huffman_name: &[u8] = &[0xb9, 0x58, 0xd3, 0x3f];
    for kept in [INSERTED, PLAIN, NEVER] {
        for name in [Ok(4), Ok(5), Err(&b":path"[..]), Err(huffman_name)] {
            let with = |value, huffman| [vec![0x82], literal(kept, name, value, huffman), vec![0x86]].concat();
            let blocks =
                [with(b"/a#b", false), with(b"/ab", false), with(BAD, true), with(GOOD, true), with(b"", false)];
            assert_eq!(said(&blocks), [true, false, true, false, false], "{kept:x} {name:?}");
        }
    }
    for other in [Ok(1), Ok(51), Err(&b":pathx"[..]), Err(b"x"), Err(b":patH")] {
        assert_eq!(said(&[literal(PLAIN, other, b"/a#b", false)]), [false], "{other:?}");
    }
}

#[test]
fn the_dynamic_table_is_followed() {
    let first = 62 | 0x80;
    let second = 63 | 0x80;
    let insert_bad = literal(INSERTED, Ok(4), BAD, true);
    let insert_other = literal(INSERTED, Err(b"x-other"), b"1#2", false);
    // By its index, also when another came behind it.
    let blocks = [insert_bad.clone(), vec![first], insert_other.clone(), vec![second], vec![first]];
    assert_eq!(said(&blocks), [true, true, false, true, false]);
    // Its name alone, with another value; and as a name in the place of an ordinary field.
    let named = |value: &[u8]| [&[0x0f, 62 - 15, value.len() as u8], value].concat();
    assert_eq!(said(&[insert_bad.clone(), named(b"/ok"), named(b"/a#b")]), [true, false, true]);
    // Entries leave by size: a large one takes all others with it.
    let large = [&[INSERTED, 1, b'y', 0x7f, 0x80, 31][..], &[b'v'; 4_095]].concat();
    assert_eq!(said(&[insert_bad.clone(), large, insert_other.clone(), vec![first]]), [true, false, false, false]);
    // And by an update of the size, which stays.
    assert_eq!(said(&[insert_bad.clone(), [vec![0x20], insert_bad, vec![0x82]].concat()]), [true, true]);
}

#[test]
fn what_is_malformed_ends_the_watch_and_nothing_else() {
    for block in
        [vec![0x80], vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff], vec![0xfe], vec![0x44, 9, b'/'], vec![0x3f, 0xff, 0x7f]]
    {
        let blocks = [block.clone(), literal(PLAIN, Ok(4), b"/a#b", false)];
        assert_eq!(said_in_pieces(&blocks, 100), [false, false], "{block:x?}");
    }
}
