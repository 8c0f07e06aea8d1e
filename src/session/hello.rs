//! The name that a TLS client asks for: the first message of its handshake has it in clear text (SNI; RFC
//! 8446 section 4.1.2, RFC 6066 section 3). PURE. It is read, not judged: TLS is between the client and
//! its server, and what is not understood here is passed on to them as it came.

use std::borrow::Cow;

/// The longest first message that is read. Those of today's clients take 500 to 2000 bytes, the longest
/// with the keys of post-quantum methods.
pub const HELLO_BYTES_MAX: usize = 12 * 1024;
/// Record type of a handshake, and the major version of all of TLS (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
const MAJOR: u8 = 3;
const RECORD_HEADER_BYTES: usize = 5;
const RECORD_BYTES_MAX: usize = 1 << 14;
/// Message type, and what stands before the body: the type and the length.
const CLIENT_HELLO: u8 = 1;
const MESSAGE_HEADER_BYTES: usize = 4;
const VERSION_AND_RANDOM_BYTES: usize = 2 + 32;
const SERVER_NAME: usize = 0;
const HOST_NAME: usize = 0;
/// RFC 1035 section 2.3.4.
const NAME_BYTES_MAX: usize = 253;

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// The beginning of a first message.
    More,
    /// One that asks for this host, in small letters and without a final dot.
    Name(String),
    /// One that names no host, or no first message of TLS.
    Nameless,
}

/// Reads the first message at the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Hello {
    match message(bytes) {
        Ok(message) => name(&message).map_or(Hello::Nameless, Hello::Name),
        Err(hello) => hello,
    }
}

/// The whole first message, out of the records that it comes in: it may be cut anywhere.
fn message(mut bytes: &[u8]) -> Result<Cow<'_, [u8]>, Hello> {
    let mut message = Cow::Borrowed(&[][..]);
    loop {
        let begins_well = bytes.iter().zip([HANDSHAKE, MAJOR]).all(|(byte, one)| *byte == one);
        if !begins_well {
            return Err(Hello::Nameless);
        }
        let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER_BYTES) else {
            return Err(Hello::More);
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > RECORD_BYTES_MAX {
            return Err(Hello::Nameless);
        }
        let (fragment, next) = rest.split_at(length.min(rest.len()));
        match &mut message {
            Cow::Borrowed([]) => message = Cow::Borrowed(fragment),
            begun => begun.to_mut().extend_from_slice(fragment),
        }
        match total(&message) {
            Err(hello) => return Err(hello),
            Ok(Some(total)) if message.len() >= total => return Ok(message),
            Ok(_) if rest.len() < length => return Err(Hello::More),
            Ok(_) => bytes = next,
        }
    }
}

/// How long the message that begins so is, once that can be told.
fn total(message: &[u8]) -> Result<Option<usize>, Hello> {
    if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
        return Err(Hello::Nameless);
    }
    let Some(header) = message.get(..MESSAGE_HEADER_BYTES) else { return Ok(None) };
    let total = MESSAGE_HEADER_BYTES + number(&header[1..]);
    if total > HELLO_BYTES_MAX { Err(Hello::Nameless) } else { Ok(Some(total)) }
}

/// The host that a whole message asks for.
fn name(message: &[u8]) -> Option<String> {
    let length = number(message.get(1..MESSAGE_HEADER_BYTES)?);
    let mut body = message.get(MESSAGE_HEADER_BYTES..)?.get(..length)?;
    take(&mut body, VERSION_AND_RANDOM_BYTES)?;
    let (_session, _ciphers, _compressions) =
        (vector(&mut body, 1)?, vector(&mut body, 2)?, vector(&mut body, 1)?);
    let mut extensions = vector(&mut body, 2)?;
    while !extensions.is_empty() {
        let kind = number(take(&mut extensions, 2)?);
        let mut content = vector(&mut extensions, 2)?;
        if kind == SERVER_NAME {
            let mut names = vector(&mut content, 2)?;
            // One of each kind, and there is but one kind.
            let kind = number(take(&mut names, 1)?);
            let name = vector(&mut names, 2)?;
            return (kind == HOST_NAME).then(|| host(name))?;
        }
    }
    None
}

/// The name of a host, if it is one: it goes into logs, and is compared.
fn host(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_host = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(fits);
    is_host.then(|| name.to_ascii_lowercase())
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// What follows its own length, which takes so many bytes (RFC 8446 section 3.4).
fn vector<'a>(bytes: &mut &'a [u8], prefix: usize) -> Option<&'a [u8]> {
    let length = number(take(bytes, prefix)?);
    take(bytes, length)
}

/// A number of up to three bytes, the highest first.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, &byte| number << 8 | usize::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_length(prefix: usize, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length[4 - prefix..], content].concat()
    }

    fn record(kind: u8, fragment: &[u8]) -> Vec<u8> {
        [&[kind, 3, 1][..], &with_length(2, fragment)].concat()
    }

    /// A first message with these extensions.
    fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut written = Vec::new();
        for (kind, content) in extensions {
            written.extend(kind.to_be_bytes());
            written.extend(with_length(2, content));
        }
        let body = [
            &[3, 3][..],
            &[7; 32],
            &with_length(1, &[9; 32]),
            &with_length(2, &[0x13, 1, 0x13, 2]),
            &with_length(1, &[0]),
            &with_length(2, &written),
        ]
        .concat();
        [&[CLIENT_HELLO][..], &with_length(3, &body)].concat()
    }

    fn names(kind: u8, name: &[u8]) -> (u16, Vec<u8>) {
        (0, with_length(2, &[&[kind][..], &with_length(2, name)].concat()))
    }

    fn asking_for(name: &[u8]) -> Vec<u8> {
        hello(&[(10, vec![0, 2, 0, 29]), names(0, name), (43, vec![2, 3, 4])])
    }

    fn named(name: &str) -> Hello {
        Hello::Name(name.to_owned())
    }

    #[test]
    fn the_name_is_read_in_small_letters_and_without_a_final_dot() {
        for (asked, read) in [
            ("intake.example.com", named("intake.example.com")),
            ("Intake.Example.COM.", named("intake.example.com")),
            ("x_1.example", named("x_1.example")),
            ("", Hello::Nameless),
            (".", Hello::Nameless),
            ("a b", Hello::Nameless),
            ("a\nb", Hello::Nameless),
            ("b\u{fc}cher.example", Hello::Nameless),
        ] {
            assert_eq!(parse(&record(HANDSHAKE, &asking_for(asked.as_bytes()))), read, "{asked:?}");
        }
        assert_eq!(parse(&record(HANDSHAKE, &asking_for(&[b'a'; 254]))), Hello::Nameless);
    }

    #[test]
    fn a_message_without_a_name_is_told_from_one_that_is_not_whole() {
        assert_eq!(parse(&record(HANDSHAKE, &hello(&[]))), Hello::Nameless);
        assert_eq!(parse(&record(HANDSHAKE, &hello(&[names(1, b"a.example")]))), Hello::Nameless);
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x02", b"SSH-2.0", b"\x17\x03\x03\0\x01\0"]
        {
            assert_eq!(parse(bytes), Hello::Nameless, "{}", bytes.escape_ascii());
        }
        // A message that would be longer than is read, and an empty record.
        assert_eq!(parse(&record(HANDSHAKE, &[CLIENT_HELLO, 0, 0x40, 0])), Hello::Nameless);
        assert_eq!(parse(&record(HANDSHAKE, &[])), Hello::Nameless);
        assert_eq!(parse(&record(HANDSHAKE, &[2, 0, 0, 1, 0])), Hello::Nameless);
        assert_eq!(parse(b""), Hello::More);
    }

    #[test]
    fn however_it_is_cut_into_segments_and_records_it_is_the_same() {
        let message = asking_for(b"a.example");
        let whole = record(HANDSHAKE, &message);
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Hello::More, "{cut}");
        }
        assert_eq!(parse(&[&whole[..], b"and what follows"].concat()), named("a.example"));
        for cut in 1..message.len() {
            let two = [record(HANDSHAKE, &message[..cut]), record(HANDSHAKE, &message[cut..])];
            assert_eq!(parse(&two[0]), Hello::More, "cut at {cut}");
            assert_eq!(parse(&two.concat()), named("a.example"), "cut at {cut}");
        }
        let bytes = message.iter().flat_map(|byte| record(HANDSHAKE, &[*byte]));
        assert_eq!(parse(&bytes.collect::<Vec<_>>()), named("a.example"), "a record a byte");
    }

    /// Lengths that lie are no reason to read beyond.
    #[test]
    fn a_length_that_lies_names_nobody() {
        let good = record(HANDSHAKE, &asking_for(b"a.example"));
        for place in RECORD_HEADER_BYTES + 4..good.len() {
            for byte in [0, 0xff] {
                let mut bad = good.clone();
                bad[place] = byte;
                let _ = parse(&bad);
            }
        }
    }
}
