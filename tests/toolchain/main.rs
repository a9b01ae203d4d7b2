//! The pinned toolchain, on this machine: what it compiles and links is made of nothing of the machine's, and is the same from
//! any folder. That it is the same in another Debian release is shown by `tests/elsewhere`.
#![expect(clippy::unwrap_used, reason = "tests and their rig: what fails here fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use casemate_image::io::store::Store;
use casemate_image::io::toolchain::Toolchain;
use casemate_image::progress::Progress;
use casemate_image::toolchain::ToolchainLock;

const C: &str = r#"#include <stdio.h>
#include <math.h>
#include <linux/types.h>
#include <sys/socket.h>
#include <immintrin.h>
extern __u32 seven(void);
int main(int count, char **words) {
    printf("%s %u %.3f\n", __FILE__, seven(), sqrt(count + 1));
    return words == 0;
}
"#;
const ASSEMBLY: &str = "#include <asm/unistd.h>\n.globl seven\n.type seven, @function\nseven: mov $(7 + __NR_read), %eax\nret\n\
                        .section .note.GNU-stack,\"\",@progbits\n";
const RUST: &str = "fn main() { let t = std::thread::spawn(|| 7); println!(\"{}\", t.join().unwrap()); }\n";

/// Sources, what is made of them, and an unpacked toolchain.
struct Place {
    dir: PathBuf,
    toolchain: Toolchain,
}

impl Place {
    /// In the folder of that name, with the toolchain in another one.
    fn new(name: &str, toolchain: &str) -> Self {
        let below = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (dir, toolchain) = (below.join(name), below.join(toolchain));
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in [("main.c", C), ("seven.S", ASSEMBLY), ("main.rs", RUST)] {
            fs::write(dir.join(name), text).unwrap();
        }
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/toolchain.lock");
        let lock = ToolchainLock::read(&lock).unwrap();
        let store = Store::new(None).unwrap();
        let toolchain = Toolchain::ready_in(&toolchain, &lock, &store, &Progress::new()).unwrap();
        Self { dir: fs::canonicalize(dir).unwrap(), toolchain }
    }

    /// A static program of C and assembly by that compiler, and what the compiler said about it.
    fn compile(&self, compiler: &Path) -> (Vec<u8>, String) {
        let out = self.dir.join("c");
        let mut command = Command::new(compiler);
        command.args([
            "-static-pie",
            "-g",
            "-O2",
            "-v",
            "-H",
            "main.c",
            "seven.S",
            "-lm",
            "-Wl,-Map=c.map",
            "-o",
        ]);
        command.arg(&out).current_dir(&self.dir);
        for (from, to) in [(self.dir.as_path(), "/here"), (self.toolchain.root(), "/sysroot")] {
            command.arg(format!("-ffile-prefix-map={}={to}", from.display()));
        }
        let path = std::env::var_os("PATH").unwrap();
        let output = command.env_clear().env("PATH", path).env("LC_ALL", "C").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        (fs::read(out).unwrap(), said)
    }

    /// A static Rust program, linked as the image builder does.
    fn rust(&self) -> Vec<u8> {
        let out = self.dir.join("rust");
        let mut linker = std::ffi::OsString::from("-Clinker=");
        linker.push(self.toolchain.cc());
        let output = Command::new("rustc")
            .args(["--edition=2024", "--target=x86_64-unknown-linux-gnu", "-Ctarget-feature=+crt-static"])
            .args(["-Crelocation-model=pie", "-Clinker-features=-lld", "-Cstrip=symbols"])
            .args(["-Clink-arg=-Wl,--build-id=none", "-Clink-arg=-Wl,-Map=rust.map"])
            .arg(linker)
            .args(["main.rs", "-o"])
            .arg(&out)
            .current_dir(&self.dir)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(out).unwrap()
    }

    fn linked(&self, map: &str) -> Vec<PathBuf> {
        let text = fs::read_to_string(self.dir.join(map)).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("LOAD ")).map(PathBuf::from).collect()
    }

    /// Files among these that are neither of the toolchain nor of our own making. Temporary files are gone by now.
    fn foreign(&self, files: &[PathBuf], also: &[&Path]) -> Vec<PathBuf> {
        let root = fs::canonicalize(self.toolchain.root()).unwrap();
        let ours = [&[self.dir.as_path(), &root], also].concat();
        let mut foreign: Vec<PathBuf> =
            files.iter().filter_map(|file| fs::canonicalize(self.dir.join(file)).ok()).collect();
        foreign.retain(|file| !ours.iter().any(|folder| file.starts_with(folder)));
        foreign
    }
}

/// What `-H` says was included: a dot for each level, then the file.
fn included(said: &str) -> Vec<PathBuf> {
    let path = |line: &str| Some(line.trim_start_matches('.').strip_prefix(' ')?.into());
    said.lines().filter(|line| line.starts_with('.')).filter_map(path).collect()
}

/// What `-v` says was started: lines that begin with a space and an absolute path (folders of headers end with their name).
fn started(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.strip_prefix(' ')).filter(|line| line.contains(" -")).collect()
}

fn sysroot() -> PathBuf {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    fs::canonicalize(String::from_utf8(output.stdout).unwrap().trim_end()).unwrap()
}

#[test]
fn nothing_of_this_machine_goes_in_and_the_folder_does_not_matter() {
    let places = [
        Place::new("compiled", "toolchain"),
        Place::new("compiled in/another place", "toolchain in/another place, it's far away"),
    ];
    let mut programs = Vec::new();
    for place in &places {
        let (program, said) = place.compile(&place.toolchain.cc());
        let (headers, objects, tools) = (included(&said), place.linked("c.map"), started(&said));
        assert!(headers.len() > 30 && objects.len() > 8 && tools.len() >= 5, "{said}");
        assert_eq!(place.foreign(&headers, &[]), [""; 0].map(PathBuf::from), "headers");
        assert_eq!(place.foreign(&objects, &[]), [""; 0].map(PathBuf::from), "linked");
        let own = format!("{}/tools/", place.toolchain.root().display());
        assert!(tools.iter().all(|line| line.starts_with(&own)), "{tools:?}");

        let run = Command::new(place.dir.join("c")).output().unwrap();
        assert_eq!(String::from_utf8(run.stdout).unwrap(), "main.c 7 1.414\n");
        let rust = place.rust();
        let linked = place.linked("rust.map");
        assert!(linked.len() > 8, "{linked:?}");
        assert_eq!(place.foreign(&linked, &[&sysroot()]), [""; 0].map(PathBuf::from), "linked");
        let run = Command::new(place.dir.join("rust")).output().unwrap();
        assert_eq!(run.stdout, b"7\n");
        programs.push((program, rust));
    }
    assert!(programs[0].0 == programs[1].0, "C and assembly, with debugging information");
    assert!(programs[0].1 == programs[1].1, "Rust");
    let text = String::from_utf8_lossy(&programs[1].0).into_owned();
    assert!(text.contains("/sysroot/usr/include") && !text.contains("another place"));
}

#[test]
fn the_judge_sees_a_compiler_of_the_machine() {
    let place = Place::new("compiled by the machine", "toolchain");
    let (_, said) = place.compile(Path::new("cc"));
    assert!(!place.foreign(&included(&said), &[]).is_empty(), "{said}");
    assert!(!place.foreign(&place.linked("c.map"), &[]).is_empty());
    let own = format!("{}/tools/", place.toolchain.root().display());
    assert!(!started(&said).iter().any(|line| line.starts_with(&own)), "{said}");
}
