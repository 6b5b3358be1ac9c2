//! Files that include others.

use std::path::Path;

use adit_rules::{Author, Date, Layer, Policy};

use super::{given, read, refused};

const MAIN: (Author, &[&str]) = (Author::Administrator, &["etc/main.yaml"]);

#[test]
fn included_files_stand_before_the_one_that_includes_them() {
    let files = [
        (
            "etc/main.yaml",
            "version: 1\ninclude: [zones.yaml, more/telnet.yaml]\nrules: [{name: all, to: 10.0.0.0/8, action: tunnel}]\ndefault: pass\n",
        ),
        (
            "etc/zones.yaml",
            "version: 1\nzones: {corp: {gateways: gw.example}}\n",
        ),
        // A path is one from the file that names it.
        (
            "etc/more/telnet.yaml",
            "version: 1\ninclude: ../deep.yaml\nsets: {old: {file: old.txt}}\nrules: [{name: old, to: \"@old\", action: block}]\n",
        ),
        ("etc/more/old.txt", "10.0.0.23\n"),
        (
            "etc/more/../deep.yaml",
            "version: 1\nrules: [{name: deep, to: 10.0.0.1, action: pass}]\n",
        ),
    ];
    let policy = read(&[MAIN], &files).expect("they are right").policy;
    assert_eq!(given(&policy, "10.0.0.1:1"), "pass by deep");
    assert_eq!(given(&policy, "10.0.0.23:1"), "block by old");
    assert_eq!(given(&policy, "10.0.0.2:1"), "tunnel corp by all");
}

#[test]
fn what_is_wrong_with_an_include_is_said_where_it_stands() {
    let main = "version: 1\ninclude: other.yaml\ndefault: pass\n";
    refused(
        read(&[MAIN], &[("etc/main.yaml", main)]),
        "error: etc/other.yaml cannot be read: there is no such file
 --> etc/main.yaml:2:10
  |
2 | include: other.yaml
  |          ^^^^^^^^^^",
    );
    let own = "version: 1\ninclude: main.yaml\n";
    refused(
        read(&[MAIN], &[("etc/main.yaml", main), ("etc/other.yaml", own)]),
        "error: etc/main.yaml is read already
 --> etc/other.yaml:2:10
  |
2 | include: main.yaml
  |          ^^^^^^^^^
  = hint: a file is read once, and does not include itself",
    );
    let wrong = "version: 1\nrules:\n  - {ports: 70000, action: block}\n";
    refused(
        read(
            &[MAIN],
            &[("etc/main.yaml", main), ("etc/other.yaml", wrong)],
        ),
        "error: there is no port 70000
 --> etc/other.yaml:3:13
  |
3 |   - {ports: 70000, action: block}
  |             ^^^^^
  = hint: ports go from 1 to 65535",
    );
    refused(
        read(&[MAIN], &[]),
        "error: etc/main.yaml cannot be read: there is no such file
 --> etc/main.yaml:1:1
  |
1 | \n  | ^",
    );
}

#[test]
fn includes_are_bounded() {
    let message = |names: &dyn Fn(usize) -> String| {
        let mut asked = 0;
        let mut endless = |_: &Path, at_most: usize| {
            asked += 1;
            let text = names(asked);
            if text.len() > at_most {
                return Ok(text[..=at_most].to_owned());
            }
            Ok(text)
        };
        let layer = Layer {
            author: Author::Administrator,
            files: vec!["main.yaml".into()],
        };
        let today = Date::new(2026, 7, 1).expect("there is such a day");
        let errors = Policy::read(&[layer], today, &mut endless).expect_err("it is bounded");
        errors.iter().next().expect("an error").message().to_owned()
    };
    assert_eq!(
        message(&|asked| format!("version: 1\ninclude: {asked}.yaml\n")),
        "too many files include one another"
    );
    let many: Vec<String> = (0..300).map(|number| format!("f{number}")).collect();
    assert_eq!(
        message(&|asked| match asked {
            1 => format!("version: 1\ninclude: [{}]\n", many.join(", ")),
            _ => "version: 1\n".to_owned(),
        }),
        "there are more than 256 rule files"
    );
    assert_eq!(
        message(&|asked| match asked {
            1 => "version: 1\ninclude: [a, b, c]\n".to_owned(),
            _ => format!("version: 1\n{}", "#".repeat(9 << 20)),
        }),
        "the rule files are too large together"
    );
    let list = "a,".repeat(30_000);
    assert_eq!(
        message(&|asked| match asked {
            1 => "version: 1\ninclude: [a, b, c, d]\n".to_owned(),
            _ => format!("version: 1\nsets: {{a{asked}: &a [{list}], b{asked}: *a}}\n"),
        }),
        "the file is too deep, or has too many values"
    );
}
