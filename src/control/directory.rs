//! Where control sockets are when nobody says: one directory for each user, one socket for each
//! relay in it, named after the port of its first listener.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};

/// The directory of whoever runs this.
pub(super) fn default() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    of(geteuid(), variable("RUNTIME_DIRECTORY"), variable("XDG_RUNTIME_DIR"))
}

/// `service` is what systemd made for a service with RuntimeDirectory= (systemd.exec(5)); it may be
/// several, separated by colons, and then we do not guess.
fn of(user: Uid, service: Option<PathBuf>, session: Option<PathBuf>) -> PathBuf {
    let usable =
        |directory: &PathBuf| directory.is_absolute() && !directory.to_string_lossy().contains(':');
    if let Some(directory) = service.filter(usable) {
        return directory;
    }
    if user.is_root() {
        return PathBuf::from("/run/fanin");
    }
    match session.filter(usable) {
        Some(directory) => directory.join("fanin"),
        None => PathBuf::from(format!("/tmp/fanin-{user}")),
    }
}

/// Where the socket of a relay is that listens on `port` first.
pub fn socket(port: u16) -> PathBuf {
    default().join(format!("{port}.sock"))
}

/// Makes sure that `directory` is there and that nobody else can put sockets into it. Its parent
/// must exist.
pub(super) fn ensure(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o750).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }?;
    trusted(directory)
}

/// Whether what is in `directory` can be believed: /tmp is everybody's, so a directory there may be
/// a trap laid by somebody else.
pub(super) fn trusted(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    let trap = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if directory.parent() == Some(Path::new("/tmp")) {
        if !found.is_dir() {
            return trap("it is not a directory");
        }
        if found.uid() != geteuid().as_raw() {
            return trap("it belongs to another user");
        }
    }
    // Sticky directories (/tmp itself) let nobody replace what is another's.
    if found.mode() & 0o002 != 0 && found.mode() & 0o1000 == 0 {
        return trap("everybody may write to it");
    }
    Ok(())
}

/// The sockets in `directory`, by name.
pub(super) fn sockets(directory: &Path) -> Vec<PathBuf> {
    if trusted(directory).is_err() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut sockets: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .collect();
    sockets.sort();
    sockets
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::control::tests::Scratch;

    #[test]
    fn each_user_has_a_directory() {
        let (root, user) = (Uid::from_raw(0), Uid::from_raw(1000));
        for (user, service, session, expected) in [
            (root, None, Some("/x"), "/run/fanin"),
            (user, None, Some("/run/user/1000"), "/run/user/1000/fanin"),
            (user, None, None, "/tmp/fanin-1000"),
            (user, None, Some("relative"), "/tmp/fanin-1000"),
            (user, Some("/run/fanin"), Some("/run/user/1000"), "/run/fanin"),
            (user, Some("/run/a:/run/b"), None, "/tmp/fanin-1000"),
        ] {
            let found = of(user, service.map(PathBuf::from), session.map(PathBuf::from));
            assert_eq!(found, Path::new(expected));
        }
    }

    #[test]
    fn a_directory_is_made_for_its_owner_and_group() {
        let scratch = Scratch::new("directory");
        let made = scratch.path("made");
        ensure(&made).expect("made");
        assert_eq!(made.metadata().expect("there").mode() & 0o7777 & !0o750, 0);
        ensure(&made).expect("still there");
    }

    #[test]
    fn a_directory_that_everybody_may_write_to_is_not_believed() {
        let scratch = Scratch::new("open");
        let open = scratch.path("open");
        ensure(&open).expect("made");
        fs::write(open.join("1.sock"), "").expect("a file");
        assert_eq!(sockets(&open).len(), 1);
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("owner");
        let error = ensure(&open).expect_err("open to all");
        assert!(error.to_string().contains("everybody may write"), "{error}");
        assert_eq!(sockets(&open), Vec::<PathBuf>::new());
    }
}
