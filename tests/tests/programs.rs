//! Real programs against real servers: through Adit they get the same bytes as directly.

use std::time::Duration;

use adit_tests::{Lab, Process, RunningAdit, Shared, address, service};
use anyhow::{Context, Result, ensure};

struct Zone {
    lab: Lab,
    _adit: RunningAdit,
    _servers: Vec<Process>,
}

/// One lab for the whole file.
fn lab() -> Result<&'static Lab> {
    static ZONE: Shared<Zone> = Shared::new();
    let zone = ZONE.get(|| {
        let lab = Lab::new()?;
        let servers = service::all(&lab)?;
        let adit = RunningAdit::start(&lab)?;
        Ok(Zone {
            lab,
            _adit: adit,
            _servers: servers,
        })
    });
    Ok(&zone?.lab)
}

/// Runs `script` directly and through Adit, for IPv4 and IPv6. In it `$H` is the server's address, `$U` the
/// same as a URL wants it, `$D` an empty directory. What it prints must be the same and contain `expected`.
fn check(script: &str, expected: &str) -> Result<()> {
    let lab = lab()?;
    for (host, url) in [
        (address::SERVER, address::SERVER.to_owned()),
        (address::SERVER6, format!("[{}]", address::SERVER6)),
    ] {
        let line = format!("set -e; H='{host}'; U='{url}'; D=$(mktemp -d -p ~); {script}");
        let line = format!("{line}\nrm -rf $D");
        let run =
            |on: adit_tests::Run<'static>| on.timeout(Duration::from_secs(60)).sh(&line)?.ok();
        let direct = run(lab.direct()).with_context(|| format!("directly to {host}"))?;
        ensure!(
            direct.contains(expected),
            "directly, `{expected}` is missing in: {direct}"
        );
        let through = run(lab.client()).with_context(|| format!("through Adit to {host}"))?;
        ensure!(
            through == direct,
            "through Adit to {host}: {through}\ndirectly: {direct}"
        );
    }
    Ok(())
}

#[test]
fn curl_over_http() -> Result<()> {
    check(
        "curl -sSf http://$U/hello; curl -sSf http://$U/big | sha256sum",
        "hello from the zone\n",
    )
}

#[test]
fn server_sees_the_gateway() -> Result<()> {
    check("curl -sSf http://$U/whoami", "")?;
    let seen = lab()?
        .client()
        .sh(&format!("curl -sSf http://{}/whoami", address::SERVER))?
        .ok()?;
    ensure!(
        seen.trim() == address::GATEWAY_INSIDE,
        "the server saw {seen}"
    );
    Ok(())
}

#[test]
fn curl_over_https_trusts_the_servers_certificate() -> Result<()> {
    let line = format!(
        "curl -sSf --cacert {} https://$U/big | sha256sum",
        service::CERTIFICATE
    );
    check(&line, "  -")
}

#[test]
fn fingerprint_is_the_servers_own() -> Result<()> {
    let show = "openssl s_client -connect $U:443 </dev/null 2>/dev/null | openssl x509 -noout";
    let own = format!(
        "openssl x509 -noout -fingerprint -sha256 -in {}",
        service::CERTIFICATE
    );
    let expected = lab()?.server().sh(&own)?.ok()?;
    check(&format!("{show} -fingerprint -sha256"), &expected)
}

#[test]
fn curl_uploads() -> Result<()> {
    let line =
        "curl -sSf -H Expect: -w ' %{size_upload}' --data-binary @/run/lab/www/big http://$U/hello";
    check(line, "hello from the zone\n 8388608")
}

#[test]
fn fifty_curls_at_once() -> Result<()> {
    let line = "for i in $(seq 50); do curl -sSf http://$U/big | sha256sum & done; wait";
    check(line, "  -")
}

#[test]
fn psql_copies_a_hundred_thousand_rows_both_ways() -> Result<()> {
    let line = "export PGHOST=$H PGUSER=postgres PGOPTIONS='-c client_min_messages=warning'
seq 100000 | awk '{print $1 \"\\trow \" $1 * 7}' >$D/rows
table=$(basename $D | tr -dc a-zA-Z0-9)
psql -qc \"create table \\\"$table\\\" (id int, what text)\"
psql -qc \"\\\\copy \\\"$table\\\" from '$D/rows'\"
psql -qc \"\\\\copy \\\"$table\\\" to '$D/back'\"
psql -Atqc \"select count(*), sum(id) from \\\"$table\\\"; drop table \\\"$table\\\"\"
cmp $D/rows $D/back && sha256sum <$D/back";
    check(line, "100000|5000050000\n")
}

#[test]
fn redis_cli() -> Result<()> {
    let line = "head -c 1000000 /run/lab/www/big | redis-cli -h $H -x set $D
redis-cli -h $H strlen $D
redis-cli -h $H get $D | sha256sum
seq 5000 | sed \"s,.*,INCR counter$D,\" | redis-cli -h $H --pipe | tail -1
redis-cli -h $H get counter$D";
    check(line, "1000000\n")
}

#[test]
fn git_clones_over_its_own_protocol() -> Result<()> {
    let line = "git clone -q git://$U/zone.git $D/clone; cd $D/clone; git fsck --strict 2>/dev/null
git rev-list --count HEAD; git rev-parse HEAD; cat * | sha256sum";
    check(line, "40\n")
}

#[test]
fn git_clones_over_ssh() -> Result<()> {
    let line = "git clone -q ssh://adit-alice@$U/~/zone.git $D/clone; cd $D/clone
git fsck --strict 2>/dev/null; git rev-list --count HEAD; git rev-parse HEAD; cat * | sha256sum";
    check(line, "40\n")
}

#[test]
fn rsync_both_ways() -> Result<()> {
    let line = "rsync -r rsync://$U/files/ $D/got/; sha256sum <$D/got/big
head -c 5000000 $D/got/big >$D/sent; rsync $D/sent rsync://$U/inbox/$(basename $D)
rsync rsync://$U/inbox/$(basename $D) $D/back; cmp $D/sent $D/back; sha256sum <$D/back";
    check(line, "  -\n")
}

#[test]
fn ssh_to_a_host_in_the_zone() -> Result<()> {
    let line =
        "ssh -o BatchMode=yes $H 'echo $SSH_CONNECTION | cut -d\" \" -f1,3,4; id -un; exit 0'
head -c 3000000 /run/lab/www/big | ssh -o BatchMode=yes $H 'cat; exit 7' | sha256sum";
    check(line, "adit-alice\n")
}
