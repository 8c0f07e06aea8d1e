//! What was typed, from the bytes that a terminal sends for it.
//!
//! crossterm can read keys too, and is not asked to: its reader (0.29, `event/source/unix/mio.rs`) goes
//! round for ever when the terminal is gone, and cannot be waited for together with signals.

/// A key that means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Escape,
    Tab,
    BackTab,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    /// Ctrl and this letter.
    Ctrl(char),
}

const ESCAPE: u8 = 0x1b;

/// The keys in what one read gave. A terminal sends the sequence of a key at once, so an escape that
/// nothing follows is the key of that name.
pub(super) fn read(mut typed: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let Some((&first, rest)) = typed.split_first() {
        let (key, taken) = match (first, rest) {
            // What follows goes up to a letter or a tilde (ECMA-48, 5.4).
            (ESCAPE, [b'[', sequence @ ..]) => {
                let end = sequence.iter().position(|byte| matches!(byte, 0x40..=0x7e));
                let length = end.map_or(sequence.len(), |end| end + 1);
                (named(&sequence[..length]), 2 + length)
            }
            (ESCAPE, [b'O', letter, ..]) => (named(&[*letter]), 3),
            // With Alt: nothing here.
            (ESCAPE, [other, ..]) if *other != ESCAPE => (None, 2),
            (ESCAPE, _) => (Some(Key::Escape), 1),
            (b'\t', _) => (Some(Key::Tab), 1),
            (0x01..=0x1a, _) => (Some(Key::Ctrl(char::from(first - 1 + b'a'))), 1),
            (b' '..=b'~', _) => (Some(Key::Char(char::from(first))), 1),
            _ => (None, 1),
        };
        keys.extend(key);
        typed = &typed[taken..];
    }
    keys
}

/// What comes after `ESC [` or `ESC O`, as xterm, the Linux console and tmux send it.
fn named(sequence: &[u8]) -> Option<Key> {
    match sequence {
        b"A" => Some(Key::Up),
        b"B" => Some(Key::Down),
        b"Z" => Some(Key::BackTab),
        b"H" | b"1~" | b"7~" => Some(Key::Home),
        b"F" | b"4~" | b"8~" => Some(Key::End),
        b"5~" => Some(Key::PageUp),
        b"6~" => Some(Key::PageDown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_what_terminals_send() {
        let typed = b"q\t\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[1~\x1b[F\x1b[Z\x03? \x1b";
        let expected = [
            Key::Char('q'),
            Key::Tab,
            Key::Up,
            Key::Down,
            Key::PageUp,
            Key::PageDown,
            Key::Home,
            Key::End,
            Key::BackTab,
            Key::Ctrl('c'),
            Key::Char('?'),
            Key::Char(' '),
            Key::Escape,
        ];
        assert_eq!(read(typed), expected);
    }

    #[test]
    fn what_means_nothing_is_passed_over_whole() {
        assert_eq!(read(b"\x1b[1;5Cs"), [Key::Char('s')], "Ctrl and an arrow");
        assert_eq!(read(b"\x1b[200~q\xc3\xa4p"), [Key::Char('q'), Key::Char('p')]);
        assert_eq!(read(b"\x1bqs"), [Key::Char('s')], "Alt and a letter is not the letter");
        assert_eq!(read(b"\x1b[12"), [], "cut off");
        assert_eq!(read(b"\x1b\x1b"), [Key::Escape, Key::Escape]);
        for byte in 0..=u8::MAX {
            let _ = (read(&[byte]), read(&[ESCAPE, byte]), read(&[ESCAPE, b'[', byte]));
        }
    }
}
