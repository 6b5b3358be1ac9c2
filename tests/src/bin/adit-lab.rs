//! The lab for trying things by hand: `make lab`. Everything is gone when its shell ends.

#![forbid(unsafe_code)]

use std::io::{self, Write};

use adit_tests::{Gateway, Lab, User, address, rules_for_networks, service};
use anyhow::Result;

fn main() -> Result<()> {
    let mut out = io::stdout();
    writeln!(out, "starting three hosts and their servers …")?;
    let lab = Lab::new()?;
    let _servers = service::all(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE, address::ZONE6]);
    lab.write(User::Alice, "/run/lab/home/adit-alice/rules.yaml", rules)?;
    write!(out, "{WELCOME}")?;
    out.flush()?;
    let shell = ["bash", "--noprofile", "--norc"];
    lab.client()
        .terminal()
        .env("PS1", "alice@client:\\w\\$ ")
        .argv(&shell)?;
    writeln!(out, "everything of the lab is gone")?;
    Ok(())
}

const WELCOME: &str = "
    client 192.0.2.2 ───── 192.0.2.1 gateway 198.51.100.1 ───── 198.51.100.10 server
    this shell             adit-server at port 443              nginx, psql, redis, git, ssh, rsync
    2001:db8:1::2          2001:db8:1::1    2001:db8:2::1       2001:db8:2::10

You are adit-alice on the client. It has no route to 198.51.100.0/24. Try:

    curl http://198.51.100.10/hello                 fails, for want of a route
    sudo adit up adit-alice@192.0.2.1:443 198.51.100.0/24 2001:db8:2::/64 &
    curl http://198.51.100.10/whoami                the server sees the gateway
    curl -g 'http://[2001:db8:2::10]/hello'
    curl -k https://198.51.100.10/hello
    psql -h 198.51.100.10 -U postgres -c 'select inet_client_addr()'
    redis-cli -h 198.51.100.10 ping
    git clone git://198.51.100.10/zone.git
    ssh 198.51.100.10
    adit status; adit flows
    adit down

With rules of your own:

    sudo sh -c 'adit-capture --socket /run/adit/capture.sock &'
    adit check rules.yaml
    adit broker --rules rules.yaml &
    adit explain --app /usr/bin/curl --to 198.51.100.10:80

exit ends the lab; nothing of it stays.

";
