//! A short run of the chaos program in each mode: every fault mixed at random, every byte checked.

#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

use std::path::Path;
use std::process::Command;

fn a_storm_of_faults_keeps_every_rule(engine: &str, splice: &str) {
    let chaos = Path::new(env!("CARGO_BIN_EXE_chaos"));
    let fanin = chaos.with_file_name("fanin");
    assert!(fanin.exists(), "{} is not built: cargo build --workspace", fanin.display());
    let name = format!("fanin-storm-{engine}-{splice}-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let output = Command::new(chaos)
        .args(["--engine", engine, "--splice", splice, "--minutes", "0.3", "--rate", "80"])
        .args(["--floods", "0", "--fanin"])
        .arg(fanin)
        .arg("--out")
        .arg(&folder)
        .output()
        .unwrap();
    let _ = std::fs::remove_dir_all(&folder);
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}\n{err}");
}

macro_rules! in_modes {
    ($($mode:ident: $engine:literal, $splice:literal;)*) => { $(
        mod $mode {
            #[test]
            fn a_storm_of_faults_keeps_every_rule() {
                super::a_storm_of_faults_keeps_every_rule($engine, $splice);
            }
        }
    )* };
}

in_modes! {
    epoll_auto: "epoll", "auto";
    epoll_always: "epoll", "always";
    io_uring_auto: "io_uring", "auto";
    io_uring_never: "io_uring", "never";
}
