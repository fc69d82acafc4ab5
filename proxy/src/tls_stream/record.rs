//! Record protection of TLS 1.3 (RFC 8446 section 5): headers, nonces, sequence numbers, padding.
//!
//! The ciphers are aws-lc's, the keys are rustls's. Records are sealed from the caller's bytes into the output, and opened
//! from the input into the caller's buffer, without a copy between.

use std::io::IoSlice;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, UnboundKey};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error as TlsError, InvalidMessage, PeerMisbehaved,
    crypto::cipher::{Iv, Nonce, make_tls13_aad},
};

/// Plaintext that one record holds at most.
pub(super) const MAX_PLAINTEXT: usize = 16 * 1024;
/// Type, version and length.
pub(super) const HEADER: usize = 5;
/// Every cipher of TLS 1.3 that rustls offers has a tag of this length.
const TAG: usize = 16;
/// What a record adds to its plaintext: header, inner type and tag.
pub(super) const OVERHEAD: usize = HEADER + 1 + TAG;
/// The longest ciphertext a record may have: 256 bytes more than its plaintext.
const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 256;
/// The longest record.
pub(super) const MAX_RECORD: usize = HEADER + MAX_CIPHERTEXT;

/// A violation: the error of the connection, and the alert that tells the peer.
#[derive(Debug)]
pub(super) struct Fatal {
    pub(super) error: TlsError,
    pub(super) alert: Option<AlertDescription>,
}

impl Fatal {
    pub(super) fn new(error: impl Into<TlsError>, alert: AlertDescription) -> Self {
        Self { error: error.into(), alert: Some(alert) }
    }
}

/// One direction's key and the number of its next record.
struct Key {
    key: LessSafeKey,
    iv: Iv,
    sequence: u64,
}

impl Key {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, TlsError> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(TlsError::General("a cipher suite that this proxy does not know".into())),
        };
        let key = UnboundKey::new(algorithm, key.as_ref())
            .map_err(|_| TlsError::General("a traffic key that does not fit its cipher".into()))?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// The nonce of the next record. Refuses to count over, as a nonce must never return.
    fn next(&mut self) -> Option<aead::Nonce> {
        let nonce = Nonce::new(&self.iv, self.sequence).0;
        self.sequence = self.sequence.checked_add(1)?;
        Some(aead::Nonce::assume_unique_for_key(nonce))
    }
}

/// Decrypts what the peer sends.
pub(super) struct Opener(Key);

impl Opener {
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, TlsError> {
        Key::new(secrets).map(Self)
    }

    /// The length of the record at the front of `input`, once it is whole.
    pub(super) fn whole(input: &[u8]) -> Result<Option<usize>, Fatal> {
        let Some((header, rest)) = input.split_first_chunk::<HEADER>() else { return Ok(None) };
        if ContentType::from(header[0]) != ContentType::ApplicationData {
            let error = TlsError::InvalidMessage(InvalidMessage::UnexpectedMessage("a record that is not encrypted"));
            return Err(Fatal::new(error, AlertDescription::UnexpectedMessage));
        }
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length <= TAG {
            return Err(forged());
        }
        if length > MAX_CIPHERTEXT {
            return Err(Fatal::new(TlsError::PeerSentOversizedRecord, AlertDescription::RecordOverflow));
        }
        Ok((rest.len() >= length).then_some(HEADER + length))
    }

    /// How much room [`Self::open`] needs for a record of this length.
    pub(super) fn room(record: usize) -> usize {
        record - HEADER - TAG
    }

    /// Decrypts a whole `record` into `out`, which has exactly the room it needs. Returns the type and length of the
    /// content.
    pub(super) fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<(ContentType, usize), Fatal> {
        let (ciphertext, tag) = record[HEADER..].split_at(out.len());
        let nonce = self.next()?;
        let aad = Aad::from(make_tls13_aad(record.len() - HEADER));
        self.0.key.open_separate_gather(nonce, aad, ciphertext, tag, out).map_err(|_| forged())?;
        content(out)
    }

    /// Decrypts a whole `record` where it is. The content begins behind the header.
    pub(super) fn open_in_place(&mut self, record: &mut [u8]) -> Result<(ContentType, usize), Fatal> {
        let nonce = self.next()?;
        let aad = Aad::from(make_tls13_aad(record.len() - HEADER));
        let plain = self.0.key.open_in_place(nonce, aad, &mut record[HEADER..]).map_err(|_| forged())?;
        content(plain)
    }

    fn next(&mut self) -> Result<aead::Nonce, Fatal> {
        self.0.next().ok_or_else(forged)
    }
}

fn forged() -> Fatal {
    Fatal::new(TlsError::DecryptError, AlertDescription::BadRecordMac)
}

/// Takes padding and type off (RFC 8446 section 5.4).
fn content(plain: &[u8]) -> Result<(ContentType, usize), Fatal> {
    let Some(length) = plain.iter().rposition(|b| *b != 0) else {
        return Err(Fatal::new(PeerMisbehaved::IllegalTlsInnerPlaintext, AlertDescription::UnexpectedMessage));
    };
    if length > MAX_PLAINTEXT {
        return Err(Fatal::new(TlsError::PeerSentOversizedRecord, AlertDescription::RecordOverflow));
    }
    Ok((ContentType::from(plain[length]), length))
}

/// Encrypts what we send.
pub(super) struct Sealer(Key);

impl Sealer {
    pub(super) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, TlsError> {
        Key::new(secrets).map(Self)
    }

    /// Records sealed with this key so far.
    pub(super) fn sealed(&self) -> u64 {
        self.0.sequence
    }

    /// Seals the next `n` bytes of `plain`, at most [`MAX_PLAINTEXT`], as one record at the front of `out`, which has room
    /// for [`OVERHEAD`] more. Returns the record's length.
    pub(super) fn seal(
        &mut self,
        kind: ContentType,
        plain: &mut Plaintext<'_>,
        n: usize,
        out: &mut [u8],
    ) -> Result<usize, TlsError> {
        let nonce = self.0.next().ok_or(TlsError::EncryptError)?;
        let aad = make_tls13_aad(n + 1 + TAG);
        let (header, body) = out[..n + OVERHEAD].split_at_mut(HEADER);
        header.copy_from_slice(&aad); // the same bytes by design
        let kind = u8::from(kind);
        if let Some(whole) = plain.contiguous(n) {
            let (ciphertext, tail) = body.split_at_mut(n);
            self.0
                .key
                .seal_out_of_place_scatter(nonce, Aad::from(aad), whole, ciphertext, &[kind], tail)
                .map_err(|_| TlsError::EncryptError)?;
        } else {
            plain.gather(&mut body[..n]);
            body[n] = kind;
            let (plain, tail) = body.split_at_mut(n + 1);
            let tag = self.0.key.seal_in_place_separate_tag(nonce, Aad::from(aad), plain);
            tail.copy_from_slice(tag.map_err(|_| TlsError::EncryptError)?.as_ref());
        }
        Ok(n + OVERHEAD)
    }
}

/// Bytes to be sealed, in however many pieces they come.
pub(super) struct Plaintext<'b> {
    bufs: &'b [IoSlice<'b>],
    /// Of the first piece: already sealed.
    offset: usize,
}

impl<'b> Plaintext<'b> {
    pub(super) fn new(bufs: &'b [IoSlice<'b>]) -> Self {
        Self { bufs, offset: 0 }
    }

    /// Takes the next `n` bytes, if they are in one piece.
    fn contiguous(&mut self, n: usize) -> Option<&'b [u8]> {
        while let Some((first, rest)) = self.bufs.split_first() {
            let piece = &first[self.offset..];
            if piece.is_empty() {
                (self.bufs, self.offset) = (rest, 0);
                continue;
            }
            let taken = piece.get(..n)?;
            self.offset += n;
            return Some(taken);
        }
        None
    }

    /// Takes as many bytes as fill `out`.
    fn gather(&mut self, mut out: &mut [u8]) {
        while let (false, Some((first, rest))) = (out.is_empty(), self.bufs.split_first()) {
            let piece = &first[self.offset..];
            let n = piece.len().min(out.len());
            let (now, later) = out.split_at_mut(n);
            now.copy_from_slice(&piece[..n]);
            out = later;
            (self.bufs, self.offset) = if n == piece.len() { (rest, 0) } else { (self.bufs, self.offset + n) };
        }
    }
}
