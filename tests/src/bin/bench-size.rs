//! The bench `size`: bytes of the agent for each target, as `ci/cross` made it, and of the images for boards, as `ci/image`
//! did, without their kernels; beside what Guix and Guile have installed.
//!
//! `bench-size TARGETS ROOT`: the folder with a folder for each target, and the root of a system that has Guix.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use drover_tests::bench::{self, Figure, Limit, Result};

const MIB: f64 = (1 << 20) as f64;
const MOST: f64 = 2.5;
/// The dynamic one; a static one can only be linked where there is something of a Hurd.
const MOST_HURD: f64 = 3.0;
const MOST_IMAGE: f64 = 3.0;

fn main() -> ExitCode {
    bench::main_of_several("size", run)
}

fn run() -> Result<Vec<Figure>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let targets = arguments.next().ok_or("the folder of the targets is missing")?;
    let root = arguments.next().ok_or("the root of a system with Guix is missing")?;
    let theirs = installed(&root)?;
    println!("guix and guile-3.0-libs of Debian, installed: {:.0} MiB", theirs / MIB);

    let (mut agents, mut hurd, mut images) = (0.0_f64, 0.0_f64, 0.0_f64);
    let mut triples: Vec<_> = fs::read_dir(drover_tests::top().join("targets"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    triples.sort_unstable();
    for triple in triples {
        let Some(agent) = size(&targets.join(&triple).join("agent/drover-agent")) else { continue };
        println!("{triple}: {agent:.0} bytes, {:.0} times less", theirs / agent);
        let most = if triple.contains("-hurd-") { &mut hurd } else { &mut agents };
        *most = most.max(agent / MIB);
        if let Some(image) = size(&targets.join(&triple).join("image/initramfs.img")) {
            println!("{triple}: {image:.0} bytes of an image, without its kernel");
            images = images.max(image / MIB);
        }
    }
    for (what, figure) in [("agent for Linux", agents), ("agent for the Hurd", hurd), ("image", images)] {
        if figure == 0.0 {
            return Err(format!("there is no {what} in {}", targets.display()).into());
        }
    }
    Ok(vec![
        Figure { of: "MiB, the largest agent for Linux", figure: agents, limit: Limit::Most(MOST) },
        Figure { of: "MiB, the agent for the Hurd, dynamic", figure: hurd, limit: Limit::Most(MOST_HURD) },
        Figure { of: "MiB, the largest image", figure: images, limit: Limit::Most(MOST_IMAGE) },
    ])
}

/// The bytes of a file, if there is one.
fn size(file: &Path) -> Option<f64> {
    Some(fs::metadata(file).ok()?.len() as f64)
}

/// The bytes that both packages have installed, by what Debian says of them.
fn installed(root: &Path) -> Result<f64> {
    let output = Command::new("dpkg-query")
        .arg(format!("--admindir={}", root.join("var/lib/dpkg").display()))
        .args(["--show", "--showformat=${Installed-Size}\\n", "guix", "guile-3.0-libs"])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let sizes: Vec<f64> = text.lines().map(str::parse).collect::<std::result::Result<_, _>>()?;
    if sizes.len() != 2 {
        return Err(
            format!("{} has no Guix: {}", root.display(), String::from_utf8_lossy(&output.stderr)).into()
        );
    }
    Ok(sizes.iter().sum::<f64>() * 1024.0)
}
