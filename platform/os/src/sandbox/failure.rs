//! Which step into a sandbox failed, and what to do about it.

use std::fmt;
use std::io;
use std::path::Path;

/// What a step into a sandbox is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Making the namespaces.
    Namespaces,
    /// Saying who is whom in the user namespace.
    Users,
    /// Going into the control group.
    Cgroup,
    /// Mounting what the program sees, and going to where it starts.
    Mounts,
    /// Mounting /proc, which a kernel may refuse where all else is well.
    Processes,
    /// Bringing the network and the name up.
    Network,
    /// Giving up rights, and setting limits.
    Rights,
    /// Running the program: it is not there, or is none for this machine.
    Program,
}

/// A sandbox that could not be entered: within the error of [`crate::process::Program::spawn`].
#[derive(Debug)]
pub struct Failure {
    step: Step,
    /// What was attempted, on what.
    what: String,
    errno: i32,
}

impl Failure {
    #[cfg_attr(any(not(target_os = "linux"), drover_portable), allow(dead_code))]
    pub(crate) fn new(step: Step, what: String, errno: i32) -> Self {
        Self { step, what, errno }
    }

    /// The failure within this error, if it is of a sandbox.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// What the step that failed is about.
    pub fn step(&self) -> Step {
        self.step
    }

    /// What the system said.
    pub fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }

    /// As an error whose words are these.
    pub(crate) fn into_error(self) -> io::Error {
        let kind = self.error().kind();
        // What the kernel calls a lack of space is no full disk on the way into a sandbox.
        io::Error::new(if self.lack().is_some() { io::ErrorKind::Other } else { kind }, self)
    }

    /// What there is too much of, when the kernel has one number for that and for full disks.
    fn lack(&self) -> Option<&'static str> {
        match self.step {
            _ if self.errno != libc::ENOSPC => None,
            Step::Namespaces | Step::Users => Some("the kernel allows no more namespaces of this kind"),
            Step::Mounts | Step::Processes => {
                Some("the kernel allows no more mounts, or nothing more in /dev")
            }
            Step::Cgroup => Some("the control group takes no processes"),
            Step::Network | Step::Rights | Step::Program => None,
        }
    }

    /// What to switch on, as far as the machine tells.
    fn advice(&self) -> Option<String> {
        advice(self.step, self.errno, crate::user::is_root(), Path::new("/proc/sys"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lack() {
            Some(lack) => write!(formatter, "{}: {lack}", self.what)?,
            None => write!(formatter, "{}: {}", self.what, self.error())?,
        }
        match self.advice() {
            Some(advice) => write!(formatter, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// What helps against this, judged by the settings of the kernel in this folder.
fn advice(step: Step, errno: i32, root: bool, settings: &Path) -> Option<String> {
    let is = |name: &str, value: &str| {
        std::fs::read_to_string(settings.join(name)).is_ok_and(|text| text.trim() == value)
    };
    let refused = matches!(errno, libc::EPERM | libc::EACCES);
    let told = |text: &str| Some(text.to_owned());
    match step {
        Step::Namespaces if is("user/max_user_namespaces", "0") => {
            told("set user.max_user_namespaces to more than 0 with sysctl")
        }
        Step::Namespaces | Step::Users if errno == libc::ENOSPC => {
            told("raise user.max_*_namespaces with sysctl")
        }
        Step::Mounts | Step::Processes if errno == libc::ENOSPC => told("raise fs.mount-max with sysctl"),
        Step::Cgroup if errno == libc::ENOSPC => {
            told("give it processors and memory (cpuset.cpus and cpuset.mems)")
        }
        Step::Namespaces if errno == libc::EINVAL || errno == libc::ENOSYS => told(
            "the kernel is built without some of the namespaces: it wants CONFIG_USER_NS, CONFIG_PID_NS, \
                  CONFIG_NET_NS, CONFIG_IPC_NS and CONFIG_UTS_NS",
        ),
        Step::Namespaces | Step::Users | Step::Mounts | Step::Network | Step::Processes
            if refused && !root && is("kernel/unprivileged_userns_clone", "0") =>
        {
            told("set kernel.unprivileged_userns_clone to 1 with sysctl, or run this as root")
        }
        Step::Namespaces | Step::Users | Step::Mounts | Step::Network | Step::Processes
            if refused && !root && is("kernel/apparmor_restrict_unprivileged_userns", "1") =>
        {
            told(
                "set kernel.apparmor_restrict_unprivileged_userns to 0 with sysctl, give this program an AppArmor \
                  profile that allows userns, or run this as root",
            )
        }
        Step::Processes if refused => told(
            "the kernel lets nobody mount a /proc where parts of the one that is there are covered, as \
                  containers do it: run this outside of the container, or start the container with its /proc \
                  uncovered (docker: --security-opt systempaths=unconfined, podman: --security-opt unmask=ALL)",
        ),
        Step::Namespaces if refused => told(
            "a container forbids this, or the folder that is our / is no mount point (chroot): run this outside of it, \
             or start the container with --privileged",
        ),
        Step::Rights if errno == libc::EINVAL => told(
            "the kernel wants CONFIG_SECCOMP_FILTER, and for programs of 32 bits a processor that has them",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_setting_that_forbids_it_is_named() {
        let settings = tempfile::tempdir().unwrap();
        fs::create_dir(settings.path().join("kernel")).unwrap();
        fs::create_dir(settings.path().join("user")).unwrap();
        let asked = |step, errno| advice(step, errno, false, settings.path()).unwrap_or_default();
        assert!(asked(Step::Namespaces, libc::EPERM).contains("container"));
        let set = |name: &str, value: &str| fs::write(settings.path().join(name), value).unwrap();
        set("kernel/apparmor_restrict_unprivileged_userns", "1\n");
        assert!(asked(Step::Users, libc::EACCES).contains("apparmor_restrict_unprivileged_userns to 0"));
        set("kernel/unprivileged_userns_clone", "0\n");
        assert!(asked(Step::Namespaces, libc::EPERM).contains("unprivileged_userns_clone to 1"));
        set("user/max_user_namespaces", "0\n");
        assert!(asked(Step::Namespaces, libc::ENOSPC).contains("max_user_namespaces"));
    }

    #[test]
    fn a_proc_that_is_covered_is_told_from_a_kernel_that_forbids_all_of_it() {
        let settings = tempfile::tempdir().unwrap();
        let asked = advice(Step::Processes, libc::EPERM, false, settings.path()).unwrap();
        assert!(asked.contains("/proc"), "{asked}");
        assert_eq!(advice(Step::Mounts, libc::ENOENT, false, settings.path()), None);
    }

    #[test]
    fn a_lack_of_namespaces_mounts_or_groups_is_not_taken_for_a_full_disk() {
        for (step, setting) in [
            (Step::Namespaces, "namespaces"),
            (Step::Users, "namespaces"),
            (Step::Mounts, "fs.mount-max"),
            (Step::Processes, "fs.mount-max"),
            (Step::Cgroup, "cpuset.cpus"),
        ] {
            let error = Failure::new(step, "make something".into(), libc::ENOSPC).into_error();
            let words = error.to_string();
            assert!(words.starts_with("make something: ") && words.contains(setting), "{words}");
            assert!(!words.contains("No space left"), "{words}");
            assert_ne!(error.kind(), io::ErrorKind::StorageFull);
            assert_eq!(Failure::of(&error).unwrap().error().raw_os_error(), Some(libc::ENOSPC));
        }
    }

    #[test]
    fn a_failure_is_found_again_in_its_error_and_says_what_was_attempted() {
        let failure = Failure::new(Step::Program, "run /no/such/builder".into(), libc::ENOENT);
        let error = failure.into_error();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(Failure::of(&error).unwrap().step(), Step::Program);
        assert_eq!(Failure::of(&error).unwrap().error().raw_os_error(), Some(libc::ENOENT));
        assert!(error.to_string().starts_with("run /no/such/builder: "), "{error}");
        assert!(Failure::of(&io::Error::other("something else")).is_none());
    }
}
