//! Packs the binary's relocations, which the loader reads whole at every start: half a megabyte less
//! of memory. Where the C library cannot read them so (glibc before 2.36, musl), or the linker is
//! another, they stay as they are.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[expect(clippy::disallowed_methods, reason = "cargo tells build scripts all by variables")]
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    let native = of("HOST") == of("TARGET") && of("TARGET") == "x86_64-unknown-linux-gnu";
    if native && glibc_minor().is_some_and(|minor| minor >= 36) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// 36 of `glibc 2.36`, of the system that builds.
fn glibc_minor() -> Option<u32> {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    String::from_utf8(told.stdout).ok()?.trim().strip_prefix("glibc 2.")?.parse().ok()
}
