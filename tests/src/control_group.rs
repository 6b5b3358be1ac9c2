//! A control group for programs of the lab, as systemd makes one for a service or an application.

use anyhow::Result;

use crate::lab::Lab;
use crate::run::Ended;
use crate::users::User;

/// Where the lab sees the machine's unified hierarchy, of which there is only one.
const HIERARCHY: &str = "/run/lab/groups";

/// A group of the machine with a name of this process above it; removed when dropped.
#[derive(Debug)]
pub struct ControlGroup<'a> {
    lab: &'a Lab,
    path: String,
}

impl<'a> ControlGroup<'a> {
    /// Makes one whose last part is `name`.
    ///
    /// # Errors
    /// When the kernel has no unified hierarchy, or it cannot be written to.
    pub fn make(lab: &'a Lab, name: &str) -> Result<ControlGroup<'a>> {
        let path = format!("{HIERARCHY}/adit-test-{}/{name}", std::process::id());
        lab.script(&format!(
            "mkdir -p {HIERARCHY}
            mountpoint -q {HIERARCHY} || mount -t cgroup2 groups {HIERARCHY}
            mkdir -p {path}"
        ))?;
        Ok(ControlGroup { lab, path })
    }

    /// Runs a line of shell in it, on the client.
    ///
    /// # Errors
    /// When it could not be run.
    pub fn sh(&self, user: User, line: &str) -> Result<Ended> {
        let id = user.uid();
        let line = format!(
            "echo $$ >{}/cgroup.procs && exec setpriv --reuid={id} --regid={id} --clear-groups sh -c '{line}'",
            self.path
        );
        self.lab.client().user(User::Root).sh(&line)
    }
}

impl Drop for ControlGroup<'_> {
    fn drop(&mut self) {
        // The one above it may hold another group; whoever is last takes it along.
        let line = format!("rmdir {0} && rmdir $(dirname {0}) || true", self.path);
        let _ = self.lab.script(&line);
    }
}
