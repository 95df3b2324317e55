//! Boards in QEMU, which start from an image of `ci/image` through their firmware.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's tools fail by failing the test"
)]

use std::fs::{self, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::farm::Farm;
use crate::service::{Service, Start};
use crate::wait;

/// A kind of board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The target of its image.
    pub triple: &'static str,
    /// What it builds for.
    pub system: &'static str,
    /// What Debian calls it.
    pub debian: &'static str,
}

/// 64-bit ARM, by UEFI.
pub const AARCH64: Kind =
    Kind { triple: "aarch64-unknown-linux-musl", system: "aarch64-linux", debian: "arm64" };
/// RISC-V, by OpenSBI and U-Boot.
pub const RISCV64: Kind =
    Kind { triple: "riscv64gc-unknown-linux-musl", system: "riscv64-linux", debian: "riscv64" };

/// By which address boards know the machine that plays them.
pub const HOST: &str = "10.0.2.2";

/// How long a board may take to start, where software plays its processor.
pub const START: Duration = Duration::from_secs(300);

impl Kind {
    /// The image that `ci/image` made, in the folder that `DROVER_IMAGES` names or else where it was made; none if there is
    /// none.
    #[must_use]
    pub fn image(self) -> Option<PathBuf> {
        let folder =
            std::env::var_os("DROVER_IMAGES").map_or_else(|| crate::top().join("target"), PathBuf::from);
        let image = folder.join(self.triple).join("image/drover.img");
        image.exists().then_some(image)
    }

    /// A static busybox for it, which `ci/image` has put aside.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn busybox(self) -> PathBuf {
        let image = self.image().expect("there is an image");
        image.with_file_name("busybox")
    }
}

/// What a board is made with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The address of its network card.
    pub card: &'static str,
    /// Lines of its configuration, beside those that say where the coordinator is.
    pub lines: String,
    /// The file of the authority whose certificate the coordinator has, for [`HOST`], if it speaks TLS. It is `ca.pem` on the
    /// board's partition.
    pub authority: Option<PathBuf>,
    /// Its processors. Several wait for one another in loops, which takes for ever where they are more than those of the machine
    /// that plays them.
    pub processors: u32,
    /// Arguments for QEMU.
    pub arguments: Vec<String>,
    /// Words before QEMU, such as `nice`.
    pub before: Vec<&'static str>,
}

impl Setup {
    /// With this network card and nothing special.
    #[must_use]
    pub fn new(card: &'static str) -> Self {
        Self {
            card,
            lines: String::new(),
            authority: None,
            processors: 1,
            arguments: Vec::new(),
            before: vec!["nice"],
        }
    }

    /// With these lines in its configuration.
    #[must_use]
    pub fn lines(mut self, lines: &str) -> Self {
        self.lines = lines.to_owned();
        self
    }
}

/// A board, with its two disks.
#[derive(Debug)]
pub struct Emulated {
    /// What its serial console says.
    pub console: Service,
    /// The disk for its store.
    pub disk: PathBuf,
    image: PathBuf,
    /// The lines of its configuration that it always has.
    always: String,
    typed: PathBuf,
}

impl Emulated {
    /// Makes a board of a farm, which has a token, and starts it. Its store's disk is in the folder, empty if there is none yet.
    ///
    /// # Panics
    /// When QEMU or the image is not there.
    #[must_use]
    pub fn start(kind: Kind, farm: &Farm, folder: &Path, setup: &Setup) -> Self {
        fs::create_dir_all(folder).unwrap();
        let image = folder.join("drover.img");
        // Sparse, as the image is.
        let copied =
            Command::new("cp").arg("--sparse=always").arg(kind.image().unwrap()).arg(&image).status();
        assert!(copied.unwrap().success());
        let scheme = if setup.authority.is_some() { "https" } else { "http" };
        let always = format!(
            "# as an editor of another system leaves it\r\ncoordinator = {scheme}://{HOST}:{}\r\n\
             dynamic-auth-token-file = drover-agent.token\r\nauthorized-keys = drover-agent.keys\r\n\
             max-1min-load-average = 1000\r\n",
            farm.agents.port()
        );
        put(&image, "drover-agent.conf", &format!("{always}{}", setup.lines));
        if let Some(authority) = &setup.authority {
            put(&image, "ca.pem", &fs::read_to_string(authority).unwrap());
        }
        put(&image, "drover-agent.token", &farm.client.new_agent_token());
        put(&image, "drover-agent.keys", &farm.client.key());
        let (disk, typed) = (folder.join("store.img"), folder.join("typed"));
        nix::unistd::mkfifo(&typed, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let card = format!("virtio-net-pci.mac={}", setup.card);
        let start = Start::new("sh")
            .args(["-c", "exec \"$@\" 0<>\"$0\""])
            .arg(&typed)
            .args(setup.before.iter().copied())
            .arg(crate::top().join("ci/image"))
            .args(["--run", kind.triple])
            .arg(&image)
            .arg(&disk)
            .args(["-global", &card])
            .args(["-smp", &setup.processors.to_string()])
            .args(setup.arguments.iter());
        Self { console: Service::start(kind.triple, start), disk, image, always, typed }
    }

    /// Gives it other lines of configuration than those that it was made with, for its next start.
    ///
    /// # Panics
    /// When there is no room for them.
    pub fn configure(&self, lines: &str) {
        put(&self.image, "drover-agent.conf", &format!("{}{lines}", self.always));
    }

    /// Gives its partition another name, for boards that look for it.
    ///
    /// # Panics
    /// When its image is not there.
    pub fn name_partition(&self, name: &str) {
        let mut image = OpenOptions::new().write(true).open(&self.image).unwrap();
        // The label in the first sector of FAT32.
        image.seek(SeekFrom::Start((16 << 20) + 71)).unwrap();
        image.write_all(format!("{name:<11}").as_bytes()).unwrap();
    }

    /// Types a line on its console.
    ///
    /// # Panics
    /// When it does not run.
    pub fn type_line(&self, line: &str) {
        let mut typed = OpenOptions::new().read(true).write(true).open(&self.typed).unwrap();
        typed.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Waits for a whole line on its console after a mark.
    ///
    /// # Panics
    /// When there is none within [`START`], or QEMU ends.
    #[track_caller]
    pub fn says(&mut self, mark: usize, part: &str) -> String {
        wait::until_within(START, &format!("a board should say “{part}”"), || {
            let text = self.console.text();
            let (whole, _) = text.get(mark..).unwrap_or_default().rsplit_once('\n').unwrap_or_default();
            let found = whole.lines().find(|line| line.contains(part));
            if let (None, Some(status)) = (found, self.console.exited()) {
                panic!("QEMU ended ({status}): {text}");
            }
            found.map(str::to_owned)
        })
    }

    /// Cuts its power.
    pub fn cut_power(&mut self) {
        self.console.kill();
    }

    /// Gives it power again.
    pub fn restore_power(&mut self) {
        self.console.restart();
    }

    /// Has it power itself off.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn power_off(&mut self) {
        self.type_line("poweroff");
        let status = wait::until_within(START, "QEMU should end", || self.console.exited());
        assert!(status.success(), "QEMU ended with {status}");
    }
}

/// Puts a file on the partition of an image, in the place of one that is there.
///
/// # Panics
/// When there is no room for it.
pub fn put(image: &Path, name: &str, contents: &str) {
    let file = image.with_file_name(name);
    fs::write(&file, contents).unwrap();
    let partition = format!("{}@@16M", image.display());
    let done = Command::new("mcopy").args(["-o", "-i", &partition]).arg(&file).arg("::").status();
    assert!(done.expect("mcopy can be run").success());
}
