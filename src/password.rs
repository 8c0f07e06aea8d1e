//! Passwords, of those who use the web proxy door, look at the statistics or change servers there: argon2id hashes in the form of PHC strings
//! (`$argon2id$v=19$m=19456,t=2,p=1$salt$hash`), with the parameters that OWASP recommends.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use data_encoding::BASE64;
use ring::digest;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// The longest name of a user, and the longest password.
pub const USER_BYTES_MAX: usize = 64;
pub const PASSWORD_BYTES_MAX: usize = 128;
/// What one check may cost at the most: a hash with more would let a few log-ins fill the memory, or
/// hold up all others for seconds.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const ROUNDS_MAX: u32 = 32;
const SALT_BYTES: usize = 16;

/// The hash of random bytes that are known to nobody, with the usual costs.
const NOBODYS: &str = "$argon2id$v=19$m=19456,t=2,p=1$8Z+wdvacyPcylQRbNt5gFA$//8Gt/qiyULlxAg0Xjz9xv0wXjBzdqshjBFODHcgy2k";

/// The hash of a password that can be written into the configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash(String);

/// Who somebody says he is (RFC 7617).
pub struct Credentials {
    pub user: String,
    pub password: Zeroizing<Vec<u8>>,
}

impl Credentials {
    /// Reads the value of a header: `Basic` and the base64 of `user:password`, strictly.
    pub fn basic(value: &[u8]) -> Option<Self> {
        const SCHEME: &[u8] = b"basic ";
        let (scheme, encoded) = value.split_at_checked(SCHEME.len())?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return None;
        }
        let decoded = Zeroizing::new(BASE64.decode(encoded.trim_ascii()).ok()?);
        let colon = decoded.iter().position(|&byte| byte == b':')?;
        let (user, password) = (&decoded[..colon], &decoded[colon + 1..]);
        let user = std::str::from_utf8(user).ok()?.to_owned();
        Some(Self { user, password: Zeroizing::new(password.to_vec()) })
    }

    fn spoken(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([self.user.as_bytes(), b":", &self.password].concat())
    }
}

/// Not the password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why a text is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHash(pub &'static str);

/// The system gives no random numbers.
#[derive(Clone, Copy, Debug)]
pub struct NoRandom;

impl Hash {
    /// The hash of a password, with a new salt.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn of(password: &[u8]) -> Result<Self, NoRandom> {
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).map_err(|_| NoRandom)?;
        let hash = Argon2::default().hash_password_with_salt(password, &salt);
        hash.map(|hash| Self(hash.to_string())).map_err(|_| NoRandom)
    }

    /// The hash of a password that stands in a file which is read again and again: the same each time,
    /// as the salt is made of the user's name. Whoever has the file has the password anyway.
    pub fn repeatable(user: &str, password: &[u8]) -> Self {
        let named = digest::digest(&digest::SHA256, format!("fanin user {user}").as_bytes());
        let salt = &named.as_ref()[..SALT_BYTES];
        let hash = Argon2::default().hash_password_with_salt(password, salt);
        // A salt of this length is never refused, and a password of any length is taken.
        hash.map_or_else(|_| Self::nobodys(), |hash| Self(hash.to_string()))
    }

    /// Reads a hash as it is written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, NoHash> {
        let hash = PasswordHash::new(text).map_err(|_| NoHash("not an argon2id hash"))?;
        if hash.algorithm.as_str() != "argon2id" || hash.hash.is_none() || hash.salt.is_none() {
            return Err(NoHash("not an argon2id hash"));
        }
        let costs = argon2::Params::try_from(&hash).map_err(|_| NoHash("not an argon2id hash"))?;
        if costs.m_cost() > MEMORY_KIB_MAX || costs.t_cost() > ROUNDS_MAX {
            return Err(NoHash("costs too much to check: more than 256 MiB, or 32 rounds"));
        }
        Ok(Self(text.to_owned()))
    }

    /// One that no password is known for: what is checked where there is no such user, so that it takes
    /// as long.
    pub fn nobodys() -> Self {
        Self(NOBODYS.to_owned())
    }

    /// Whether this is the password. Takes as long as the hash's parameters want: tens of milliseconds.
    pub fn matches(&self, password: &[u8]) -> bool {
        PasswordHash::new(&self.0)
            .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Not what it is: hashes have no business in logs.
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(..)")
    }
}

/// Who has logged in: known again by a keyed hash of what was said, compared in constant time, so that a
/// password is checked once and not kept.
#[derive(Debug)]
pub struct Passed {
    key: hmac::Key,
    /// By user: the hash by which it passed, and the tag of what it said.
    users: HashMap<String, (Hash, hmac::Tag)>,
}

impl Passed {
    /// Nobody has.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn new() -> Result<Self, NoRandom> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Ok(Self { key: key.map_err(|_| NoRandom)?, users: HashMap::new() })
    }

    /// The tag of what somebody says, which says nothing of it to others.
    pub fn tag(&self, said: &Credentials) -> hmac::Tag {
        hmac::sign(&self.key, &said.spoken())
    }

    /// Whether this has passed before, by the hash that is the user's now.
    pub fn knows(&self, hash: Option<&Hash>, said: &Credentials) -> bool {
        self.users.get(&said.user).is_some_and(|(then, tag)| {
            Some(then) == hash && hmac::verify(&self.key, &said.spoken(), tag.as_ref()).is_ok()
        })
    }

    /// Takes note that it has.
    pub fn note(&mut self, hash: Hash, said: &Credentials) {
        let tag = self.tag(said);
        self.users.insert(said.user.clone(), (hash, tag));
    }

    /// Forgets those who are users no more.
    pub fn retain(&mut self, users: &BTreeMap<String, Hash>) {
        self.users.retain(|user, (hash, _)| users.get(user) == Some(hash));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_knows_its_password_and_no_other() {
        let hash = Hash::of(b"correct horse").unwrap();
        let again = Hash::read(hash.as_str()).unwrap();
        assert!(again.matches(b"correct horse"));
        assert!(!again.matches(b"correct horsf"));
        assert!(!again.matches(b""));
        assert_ne!(hash, Hash::of(b"correct horse").unwrap(), "the salt is new");
        assert_eq!(format!("{hash:?}"), "Hash(..)");
    }

    #[test]
    fn a_password_in_a_file_has_the_same_hash_each_time_and_another_for_another_user() {
        let hash = Hash::repeatable("alice", b"secret");
        assert!(hash.matches(b"secret") && !hash.matches(b"secreu"));
        assert_eq!(hash, Hash::repeatable("alice", b"secret"));
        assert_ne!(hash, Hash::repeatable("bob", b"secret"));
        assert_eq!(Hash::read(hash.as_str()), Ok(hash.clone()));
    }

    #[test]
    fn who_has_passed_is_known_by_the_same_words_and_the_same_hash_alone() {
        let said = |password: &str| Credentials {
            user: "alice".to_owned(),
            password: Zeroizing::new(password.as_bytes().to_vec()),
        };
        let (hash, other) = (Hash::repeatable("alice", b"a"), Hash::repeatable("alice", b"b"));
        let mut passed = Passed::new().unwrap();
        assert!(!passed.knows(Some(&hash), &said("a")));
        passed.note(hash.clone(), &said("a"));
        assert!(passed.knows(Some(&hash), &said("a")));
        assert!(!passed.knows(Some(&hash), &said("b")));
        assert!(!passed.knows(Some(&other), &said("a")), "the password was changed");
        assert!(!passed.knows(None, &said("a")), "no user any more");
        passed.retain(&BTreeMap::new());
        assert!(!passed.knows(Some(&hash), &said("a")));
    }

    #[test]
    fn nobodys_hash_costs_what_others_do() {
        let costs = |hash: &Hash| {
            hash.as_str().rsplit_once('$').unwrap().0.rsplit_once('$').unwrap().0.to_owned()
        };
        assert_eq!(Hash::read(NOBODYS), Ok(Hash::nobodys()));
        assert_eq!(costs(&Hash::nobodys()), costs(&Hash::of(b"x").unwrap()));
    }

    #[test]
    fn what_is_no_hash_is_told() {
        let good = Hash::of(b"x").unwrap();
        for bad in [
            "",
            "secret",
            "$6$salt$hash",
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ",
            &good.as_str().replace("argon2id", "argon2i"),
            &good.as_str().replace("m=19456", "m=9999999"),
            &good.as_str().replace("t=2", "t=33"),
        ] {
            assert!(Hash::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn credentials_are_read_and_a_password_may_have_colons() {
        let read = |value: &str| {
            let said = Credentials::basic(value.as_bytes())?;
            Some((said.user.clone(), String::from_utf8(said.password.to_vec()).unwrap()))
        };
        let sent = format!("Basic {}", BASE64.encode(b"alice:a:b"));
        assert_eq!(read(&sent), Some(("alice".to_owned(), "a:b".to_owned())));
        for wrong in ["Basic", "Bearer abc", "Basic !!!", "Basic YWxpY2U="] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
