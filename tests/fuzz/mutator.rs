//! Inputs that are nearly right: the corpus, cut, joined, repeated and corrupted by seeded dice.

use std::fs;
use std::path::Path;

/// What parsers stumble over.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\x1b[2J",
    b"\r\n",
    b"\"",
    b"\"\"\"",
    b"'''",
    b"[[",
    b"]]",
    b"{",
    b"}",
    b"=",
    b"#",
    b"-",
    b"-1",
    b"0",
    b"00",
    b"+1",
    b"1e999",
    b"0x10",
    b"nan",
    b"65535",
    b"65536",
    b"4294967296",
    b"9223372036854775807",
    b"18446744073709551616",
    b"99999999999999999999999999",
    b"0.0000001",
    b"s",
    b"ms",
    b"h",
    b"KiB",
    b"GiB",
    b"TiB",
    b":",
    b"::",
    b"[::]",
    b"%",
    b",",
    b"auto",
    b"true",
    b"[listener]",
    b"[[listener]]\n",
    b"[backend.x]\n",
    b"[[backend.x.server]]\n",
    b"address = \"a:1\"\n",
    b"listen x\n bind :1\n",
    b"defaults\n",
    b" server x 192.0.2.1:1 ",
    b" timeout ",
    b" acl x src ",
    b" tcp-request connection reject if ",
    b"${X-",
    b"\\x",
    b"!",
    b"\xd9\xa1",
    b"\xe2\x80\xae",
];

/// Where the inputs come from.
pub(crate) struct Mutator {
    corpus: Vec<Vec<u8>>,
    dice: u64,
    bytes_max: usize,
}

impl Mutator {
    pub(crate) fn new(folder: &Path, seed: u64, bytes_max: usize) -> Self {
        let entries = fs::read_dir(folder).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "no corpus in {}", folder.display());
        let corpus = files.iter().map(|file| fs::read(file).unwrap()).collect();
        Self { corpus, dice: seed, bytes_max }
    }

    pub(crate) fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.any_of_corpus();
        for _ in 0..self.below(8) {
            self.mutate(&mut input);
        }
        input.truncate(self.bytes_max);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let (from, to) = self.part(input.len());
        match self.below(8) {
            0 => drop(input.drain(from..to)),
            1 => drop(input.splice(from..from, self.token())),
            2 => drop(input.splice(from..to, self.token())),
            3 => {
                let part = input[from..to].to_vec();
                let times = self.below(4) + 1;
                drop(input.splice(to..to, part.repeat(times)));
            }
            4 => {
                let other = self.any_of_corpus();
                let (start, end) = self.part(other.len());
                drop(input.splice(from..to, other[start..end].iter().copied()));
            }
            5 => {
                let byte = self.below(256) as u8;
                input.insert(from, byte);
            }
            _ => {
                let bit = 1u8 << self.below(8);
                if let Some(byte) = input.get_mut(from) {
                    *byte ^= bit;
                }
            }
        }
    }

    fn token(&mut self) -> Vec<u8> {
        TOKENS[self.below(TOKENS.len())].to_vec()
    }

    fn any_of_corpus(&mut self) -> Vec<u8> {
        let number = self.below(self.corpus.len());
        self.corpus[number].clone()
    }

    /// A part of `len` bytes, short ones more often.
    fn part(&mut self, len: usize) -> (usize, usize) {
        let from = self.below(len + 1);
        let most = self.below(len - from + 1);
        (from, from + self.below(most + 1))
    }

    /// SplitMix64.
    fn below(&mut self, limit: usize) -> usize {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}
