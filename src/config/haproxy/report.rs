//! What became of a configuration of HAProxy: what maps to what, what is ignored and why, what to
//! look at. For a person, in the order of the lines.

use std::fmt;

/// What became of one line, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// From 1; 0 is what stands in no line.
    pub line: usize,
    /// What was written.
    pub said: String,
    pub kind: NoteKind,
    /// Where it went, why it is ignored, what is dangerous about it.
    pub text: String,
}

/// What kind of note it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteKind {
    /// It does here what it did there.
    Mapped,
    /// It has no effect here, and that is harmless.
    Ignored,
    /// It works, and a person should look at it.
    Danger,
}

/// The migration report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    notes: Vec<Note>,
}

impl Report {
    pub(super) fn note(
        &mut self,
        kind: NoteKind,
        line: usize,
        said: impl Into<String>,
        text: impl Into<String>,
    ) {
        let note = Note { line, said: said.into(), kind, text: text.into() };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The notes of one kind, in the order of their lines.
    pub fn of(&self, kind: NoteKind) -> Vec<&Note> {
        let mut notes: Vec<_> = self.notes.iter().filter(|note| note.kind == kind).collect();
        notes.sort_by_key(|note| note.line);
        notes
    }

    /// The gist in one line.
    pub fn summary(&self) -> String {
        let count = |kind| self.of(kind).len();
        format!(
            "{} settings taken over, {} ignored, {} to look at",
            count(NoteKind::Mapped),
            count(NoteKind::Ignored),
            count(NoteKind::Danger)
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, title) in [
            (NoteKind::Mapped, "taken over"),
            (NoteKind::Ignored, "ignored, and why"),
            (NoteKind::Danger, "to look at"),
        ] {
            let notes = self.of(kind);
            if notes.is_empty() {
                continue;
            }
            writeln!(f, "\n{title}:")?;
            for note in notes {
                match note.line {
                    0 => write!(f, "            ")?,
                    line => write!(f, "  line {line:>4}  ")?,
                }
                writeln!(f, "{}\n             -> {}", note.said, note.text)?;
            }
        }
        Ok(())
    }
}
