//! Whom the relay process runs as.

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid};

use crate::config::Global;
use crate::sys::confine;

pub(super) const ROOT: &str = "root";

/// Why a relay process is not confined as it is to be.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error(
        "[global] {key} = \"{name}\": this host knows no such {key}; `getent {table} {name}` looks it \
         up; make it (adduser --system --group --no-create-home {name}), or name one that is there"
    )]
    Unknown { key: &'static str, table: &'static str, name: String },
    #[error(
        "[global] user or group asks for user {user}, group {group}, and fanin runs as user {now}: only \
         root may become somebody else; start it as that user (systemd: User= and Group=) and leave \
         the keys out, or start it as root"
    )]
    NotRoot { user: Uid, group: Gid, now: Uid },
    #[error("user {user}, group {group} ([global] user, group) cannot be become: {}", .errno.desc())]
    Refused { user: Uid, group: Gid, errno: Errno },
}

impl ConfineError {
    /// Whether a permission is missing, and not an entry in the configuration wrong.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::NotRoot { .. })
    }

    /// Whether what was asked for does not exist.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

/// Becomes the configured user, if that is somebody else, and says who it is.
pub(super) fn become_configured(global: &Global) -> Result<String, ConfineError> {
    let user = global.user.as_deref().map(known_user).transpose()?;
    let group = global.group.as_deref().map(known_group).transpose()?;
    let (uid, gid) = (geteuid(), getegid());
    let user = user.unwrap_or((uid, gid));
    let wanted = (user.0, group.unwrap_or(user.1));
    if wanted != (uid, gid) {
        if !uid.is_root() {
            return Err(ConfineError::NotRoot { user: wanted.0, group: wanted.1, now: uid });
        }
        let (user, group) = wanted;
        confine::become_user(user, group).map_err(|errno| ConfineError::Refused {
            user,
            group,
            errno,
        })?;
    }
    Ok(name_of(wanted.0))
}

/// A user by name or number, and its group.
fn known_user(name: &str) -> Result<(Uid, Gid), ConfineError> {
    let unknown = || ConfineError::Unknown { key: "user", table: "passwd", name: name.to_owned() };
    match (User::from_name(name), name.parse().map(Uid::from_raw)) {
        (Ok(Some(user)), _) => Ok((user.uid, user.gid)),
        (_, Ok(number)) => match User::from_uid(number) {
            Ok(Some(user)) => Ok((user.uid, user.gid)),
            // A number needs no entry: then the group has the same.
            _ => Ok((number, Gid::from_raw(number.as_raw()))),
        },
        _ => Err(unknown()),
    }
}

fn known_group(name: &str) -> Result<Gid, ConfineError> {
    let unknown = || ConfineError::Unknown { key: "group", table: "group", name: name.to_owned() };
    match (Group::from_name(name), name.parse().map(Gid::from_raw)) {
        (Ok(Some(group)), _) => Ok(group.gid),
        (_, Ok(number)) => Ok(number),
        _ => Err(unknown()),
    }
}

fn name_of(user: Uid) -> String {
    match User::from_uid(user) {
        Ok(Some(known)) => known.name,
        _ if user.is_root() => ROOT.to_owned(),
        _ => user.to_string(),
    }
}
