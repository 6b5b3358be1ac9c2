//! Random policies and flows against a reference that asks every rule in turn, and random text against panics.

mod model;
mod reading;

use std::net::IpAddr;
use std::path::Path;

use adit_rules::{
    Author, Checked, Connect, Date, Decision, Diagnostics, Judgement, KernelProgram, KernelVerdict,
    Layer, OnDown, Policy, Refusal,
};
use model::application::{self, ModelApp};
use model::{ModelPolicy, Verdict};
use proptest::prelude::*;
use reading::parse_file;

/// Parses the model's file. Rules that are refused as shadowed are left out, which must change no decision.
///
/// Also gives the model of the rules that are left.
fn parse(model: &ModelPolicy) -> (Policy, ModelPolicy) {
    let mut kept = model.clone();
    loop {
        let text = kept.to_yaml();
        let errors = match parse_file(Path::new("rules.yaml"), &text, &[]) {
            Ok(checked) => return (checked.policy, kept),
            Err(errors) => errors,
        };
        let refused = never_matching(&errors, |_| &text);
        kept.rules.retain(|rule| !refused.contains(&rule.name));
    }
}

/// The names of the rules that are refused, which is only right where they can never match.
fn never_matching<'a>(errors: &Diagnostics, text_of: impl Fn(&Path) -> &'a str) -> Vec<String> {
    let names = errors.iter().map(|error| {
        let text = text_of(error.file());
        let is_right = error.message().ends_with(" can never match")
            || error.message().starts_with("nothing is left");
        assert!(
            is_right,
            "only rules that never match are wrong:\n{errors}\n{text}"
        );
        let until = text.lines().take(error.line());
        let names = until.filter_map(|line| line.strip_prefix("  - name: "));
        let name = names.last().expect("it stands in a rule");
        name.trim_matches('"').to_owned()
    });
    names.collect()
}

fn verdict(decision: &Decision) -> Verdict {
    Verdict {
        action: decision.action().to_owned(),
        zone: decision.zone().map(str::to_owned),
        connect: match decision {
            Decision::Tunnel(permit) => Some(permit.connect().as_str()),
            Decision::Pass(_) | Decision::Block(_) => None,
        },
        dialled: match decision {
            Decision::Tunnel(permit) => Some(permit.destination()),
            Decision::Pass(permit) => Some(permit.destination()),
            Decision::Block(_) => None,
        }
        .map(|it| (it.address, it.name.clone(), it.port)),
        drops: match decision {
            Decision::Block(block) => block.refusal() == Refusal::Drop,
            Decision::Tunnel(_) | Decision::Pass(_) => false,
        },
        rule: decision.rule().to_owned(),
    }
}

fn decided(judgement: Judgement) -> Decision {
    match judgement {
        Judgement::Decided(decision) => decision,
        Judgement::Needs(fact) => panic!("{fact:?} was given"),
    }
}

/// What a kernel would do that runs the program.
fn run(program: &KernelProgram, address: IpAddr, port: u16) -> KernelVerdict {
    let address = address.to_canonical();
    let step = program.steps.iter().find(|step| {
        let ports = &step.ports;
        step.to.iter().any(|network| network.contains(&address))
            && (ports.is_empty() || ports.iter().any(|range| range.contains(&port)))
    });
    step.map_or(program.default, |step| step.verdict)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn judges_like_the_reference(
        model in model::policy(),
        user in model::user(),
        flows in prop::collection::vec(model::flow(), 1..24),
    ) {
        let policy = parse(&model).0.for_user(user.to_user());
        for flow in &flows {
            let expected = model.judge(flow, user);
            let decision = decided(policy.judge(&flow.destination(), Some(&flow.application())));
            prop_assert_eq!(verdict(&decision), expected, "{:?} {:?}\n{}", flow, user, model.to_yaml());
            let explanation = policy.explain(&flow.destination(), &flow.application());
            prop_assert_eq!(explanation.decision(), &decision);
            prop_assert_eq!(explanation.steps().last().map(|step| step.rule()), Some(decision.rule()));
        }
    }

    /// Whatever is not known: what is granted would be granted by the same rule if it were.
    #[test]
    fn nothing_is_granted_that_depends_on_what_is_not_known(
        model in model::policy(),
        user in model::user(),
        flow in model::flow(),
    ) {
        let (policy, kept) = parse(&model);
        let decision = decided(policy.for_user(user.to_user()).judge(&flow.destination(), Some(&flow.application())));
        let rule = kept.rules.iter().find(|rule| rule.name == decision.rule());
        if let (Decision::Tunnel(_) | Decision::Pass(_), Some(rule)) = (&decision, rule) {
            let asks_for_unknown = rule.app.any.iter().any(|it| matches!(it, ModelApp::Unknown));
            if flow.application.is_none() && asks_for_unknown {
                return Ok(());
            }
            for world in flow.worlds() {
                prop_assert_eq!(rule.takes(&world, user), Some(true), "{:?}\n{}", world, model.to_yaml());
            }
        }
    }

    #[test]
    fn facts_are_asked_for_once_and_only_where_they_matter(
        model in model::policy(),
        user in model::user(),
        flow in model::flow(),
    ) {
        let (policy, kept) = parse(&model);
        let policy = policy.for_user(user.to_user());
        let (destination, all) = (flow.destination(), flow.application());
        let (mut known, mut asked) = (None, Vec::new());
        let decision = loop {
            match policy.judge(&destination, known.as_ref()) {
                Judgement::Decided(decision) => break decision,
                Judgement::Needs(fact) => {
                    prop_assert!(!asked.contains(&fact), "{:?} again\n{}", fact, model.to_yaml());
                    asked.push(fact);
                    known = Some(application::tell(known, fact, &all));
                }
            }
        };
        prop_assert_eq!(&decision, &decided(policy.judge(&destination, Some(&all))));
        // What comes behind the rule that decided asks for nothing.
        let position = kept.rules.iter().position(|rule| rule.name == decision.rule());
        let asking = &kept.rules[..position.map_or(kept.rules.len(), |position| position + 1)];
        if asking.iter().all(|rule| rule.app.is_any()) {
            prop_assert_eq!(asked, Vec::new());
        }
    }

    #[test]
    fn kernel_and_broker_together_give_what_the_reference_gives(
        model in model::policy(),
        user in model::user(),
        flows in prop::collection::vec(model::flow(), 1..24),
    ) {
        let policy = parse(&model).0.for_user(user.to_user());
        let program = policy.kernel_program();
        for flow in &flows {
            let flow = flow.without_name();
            let Some(address) = flow.address else { continue };
            let expected = model.judge(&flow, user);
            let (action, drops) = match run(&program, address, flow.port) {
                KernelVerdict::Pass => ("pass".to_owned(), false),
                KernelVerdict::Block => ("block".to_owned(), false),
                KernelVerdict::Ask | KernelVerdict::HandOver => {
                    let judgement = policy.judge(&flow.destination(), Some(&flow.application()));
                    let verdict = verdict(&decided(judgement));
                    (verdict.action, verdict.drops)
                }
            };
            prop_assert_eq!((action, drops), (expected.action, expected.drops), "{:?}\n{}\n{:?}", flow, model.to_yaml(), program);
        }
    }

    #[test]
    fn the_first_rule_that_could_match_says_how_the_kernel_asks(
        model in model::policy(),
        user in model::user(),
        flows in prop::collection::vec(model::flow(), 1..24),
    ) {
        let (policy, kept) = parse(&model);
        let policy = policy.for_user(user.to_user());
        let program = policy.kernel_program();
        for flow in &flows {
            let Some(address) = flow.address else { continue };
            let verdict = run(&program, address, flow.port);
            let word = match verdict {
                KernelVerdict::Ask => "ask",
                KernelVerdict::HandOver => "hand over",
                KernelVerdict::Pass => "pass",
                KernelVerdict::Block => "block",
            };
            prop_assert_eq!(word, kept.kernel(flow, user), "{:?}\n{}\n{:?}", flow, kept.to_yaml(), program);
            let explanation = policy.explain(&flow.destination(), &flow.application());
            let expected = match (verdict, explanation.decision()) {
                (KernelVerdict::HandOver, _) => Some(Connect::Early),
                (_, Decision::Tunnel(permit)) => Some(permit.connect()),
                (_, Decision::Pass(_) | Decision::Block(_)) => None,
            };
            prop_assert_eq!(explanation.connect(), expected, "{:?}\n{}\n{:?}", flow, model.to_yaml(), program);
        }
    }

    #[test]
    fn the_kernels_steps_are_tidy(model in model::policy()) {
        let program = parse(&model).0.kernel_program();
        for step in &program.steps {
            prop_assert!(!step.to.is_empty());
            prop_assert!(step.to.iter().all(|network| network.trunc() == *network));
            let apart = step.ports.windows(2).all(|pair| u32::from(*pair[0].end()) + 1 < u32::from(*pair[1].start()));
            prop_assert!(apart);
        }
        for pair in program.steps.windows(2) {
            prop_assert!(pair[0].verdict != pair[1].verdict || pair[0].ports != pair[1].ports);
        }
        prop_assert_ne!(program.steps.last().map(|step| step.verdict), Some(program.default));
    }
}

const EXAMPLE: &str = include_str!("example.yaml");
const EVERYTHING: &str = include_str!("everything.yaml");
const VENDOR: &str = "{\"a\": [\"192.0.2.0/24\", \"*.vendor.example\"]}";
const PARTNERS: &str = "203.0.113.0/28 # the office\n";

/// `text` with some characters taken out and others put in.
fn changed(text: &str, edits: &[(prop::sample::Index, usize, String)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (at, removed, inserted) in edits {
        let start = at.index(characters.len() + 1);
        let end = (start + removed).min(characters.len());
        characters.splice(start..end, inserted.chars());
    }
    characters.into_iter().collect()
}

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, usize, String)>> {
    let inserted = "\\PC{0,3}|\n *|[\\[\\]{}:,*&!|>\"'#-]|not: |@vendor|regex: |unknown|\\{not: ";
    prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, inserted), 1..6)
}

fn read_without_a_panic(text: &str, vendor: &str, partners: &str) {
    let beside = [("vendor.json", vendor), ("partners.txt", partners)];
    match parse_file(Path::new("rules.yaml"), text, &beside) {
        Ok(checked) => {
            let _ = checked.policy.kernel_program();
            let _ = checked.warnings.to_string();
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            assert!(
                errors
                    .iter()
                    .all(|error| error.line() >= 1 && error.column() >= 1)
            );
            let _ = errors.to_string();
        }
    }
}

proptest! {
    #[test]
    fn random_text_never_panics(text in any::<String>()) {
        let _ = parse_file(Path::new("rules.yaml"), &text, &[]).map_err(|errors| errors.to_string());
    }

    #[test]
    fn random_yaml_never_panics(
        text in "(version: 1\n|default: pass\n|(rules|zones|tests):|\n +- |\\{|\\}|\\[|\\]|(name|app|to|ports|action|zone|gateways|on_down|connect|not|script|path|user|sets|file|expires|enabled|with|regex|destination|port|entries|tunnels|socks5|http|listen): |[&*]a |<<: |\"@a\"|: |, |\"|'|[0-9]{1,6}|\\PC){0,40}"
    ) {
        let _ = parse_file(Path::new("rules.yaml"), &text, &[]).map_err(|errors| errors.to_string());
    }

    #[test]
    fn mutated_files_never_panic(edits in edits(), everything: bool) {
        let text = if everything { EVERYTHING } else { EXAMPLE };
        read_without_a_panic(&changed(text, &edits), VENDOR, PARTNERS);
    }

    #[test]
    fn mutated_sets_never_panic(edits in edits(), text in any::<String>()) {
        read_without_a_panic(EVERYTHING, &changed(VENDOR, &edits), &changed(PARTNERS, &edits));
        read_without_a_panic(EVERYTHING, &text, &text);
        read_without_a_panic(EVERYTHING, &format!("[{text}"), &text);
    }
}

#[test]
fn the_example_is_valid() {
    let checked = parse_file(Path::new("example.yaml"), EXAMPLE, &[]);
    let checked = checked.unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(checked.policy.zones().len(), 1);
    let beside = [("vendor.json", VENDOR), ("partners.txt", PARTNERS)];
    let checked = parse_file(Path::new("rules.yaml"), EVERYTHING, &beside);
    let checked = checked.unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(checked.policy.zones().len(), 2);
}

#[test]
fn a_file_that_is_too_large_is_refused_at_once() {
    let text = format!("version: 1\ndefault: pass\n#{}\n", "x".repeat(16 << 20));
    let errors = parse_file(Path::new("rules.yaml"), &text, &[]).expect_err("too large");
    assert_eq!(errors.iter().count(), 1);
    assert!(errors.to_string().contains("at most 16777216 are read"));
}

/// The administrator's `a.yaml`, and `u.yaml` of the user.
fn read_both(administrators: &str, users: &str) -> Result<Checked, Diagnostics> {
    let layers = [(Author::Administrator, "a.yaml"), (Author::User, "u.yaml")];
    let layers = layers.map(|(author, file)| Layer {
        author,
        files: vec![file.into()],
    });
    let mut files = |path: &Path, _: usize| {
        let is_users = path == Path::new("u.yaml");
        Ok(if is_users { users } else { administrators }.to_owned())
    };
    let today = Date::new(2026, 7, 1).expect("there is such a day");
    Policy::read(&layers, today, &mut files)
}

/// How strict a decision is, told apart from the program's own words for it.
fn is_at_least_as_strict(decision: &Decision, than: &Decision) -> bool {
    let leaks = |on_down: OnDown| on_down == OnDown::Pass;
    match (than, decision) {
        (Decision::Pass(_), _) | (_, Decision::Block(_)) => true,
        (Decision::Tunnel(than), Decision::Tunnel(own)) => {
            let is_there = own.zone() == than.zone() && own.destination() == than.destination();
            is_there && (leaks(than.on_down()) || !leaks(own.on_down()))
        }
        (Decision::Tunnel(_) | Decision::Block(_), _) => false,
    }
}

/// The administrator's file, with words for what its zones do without a gateway.
fn administrators_file(model: &ModelPolicy, on_down: [&str; 2]) -> String {
    let mut text = model.to_yaml();
    for (zone, word) in ["z1", "z2"].iter().zip(on_down) {
        let own = format!("  {zone}: {{gateways: [gw]");
        text = text.replace(&own, &format!("{own}, on_down: {word}"));
    }
    rejecting_where_it_leads_elsewhere(&text)
}

/// The user's file: it names the administrator's zone `z1`, and has a zone of its own.
fn users_file(model: &ModelPolicy, on_down: &str) -> String {
    let text = model.to_yaml();
    let (_, rest) = text.split_once("sets:").expect("there are some");
    let rest = rest.replace("z2", "z3").replace(
        "    action: tunnel\n",
        &format!("    action: tunnel\n    on_down: {on_down}\n"),
    );
    let rest = rejecting_where_it_leads_elsewhere(&rest);
    format!("version: 1\nzones: {{z3: {{gateways: [gw]}}}}\nsets:{rest}")
}

/// Another destination is refused where a connection to it could be passed.
fn rejecting_where_it_leads_elsewhere(text: &str) -> String {
    let mut rules = text.split("  - name:");
    let mut all = rules.next().unwrap_or_default().to_owned();
    for rule in rules {
        let leads_elsewhere = rule.contains("    destination:") || rule.contains("    port:");
        let own = rule
            .lines()
            .filter(|line| !leads_elsewhere || !line.starts_with("    on_down:"));
        let own = own.map(|line| match line {
            "    action: tunnel" if leads_elsewhere => format!("{line}\n    on_down: reject\n"),
            line => format!("{line}\n"),
        });
        all.push_str("  - name:");
        all.extend(own);
    }
    all
}

/// Leaves out rules that are refused as shadowed by others of their layer.
fn read_models(
    administrators: &mut ModelPolicy,
    users: &mut ModelPolicy,
    on_down: [&str; 3],
) -> Policy {
    loop {
        let one = administrators_file(administrators, [on_down[0], on_down[1]]);
        let other = users_file(users, on_down[2]);
        let errors = match read_both(&one, &other) {
            Ok(checked) => return checked.policy,
            Err(errors) => errors,
        };
        let refused = never_matching(&errors, |file| match file == Path::new("u.yaml") {
            true => &other,
            false => &one,
        });
        for model in [&mut *administrators, &mut *users] {
            model.rules.retain(|rule| !refused.contains(&rule.name));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What a user's layer adds never opens anything, and changes nothing that an administrator's rule decides.
    #[test]
    fn a_users_layer_never_weakens(
        mut administrators in model::policy(),
        mut users in model::policy(),
        user in model::user(),
        on_down in prop::array::uniform3(prop::sample::select(&["reject", "hold", "pass"])),
        leads_to in prop::collection::vec(model::elsewhere(0.5), 9),
        flows in prop::collection::vec(model::flow(), 1..24),
    ) {
        for (rule, elsewhere) in users.rules.iter_mut().zip(leads_to) {
            rule.name.insert_str(0, "u-");
            rule.elsewhere = elsewhere;
        }
        let both = read_models(&mut administrators, &mut users, on_down);
        let file = administrators_file(&administrators, [on_down[0], on_down[1]]);
        let alone = parse_file(Path::new("a.yaml"), &file, &[]).expect("it was right").policy;
        let (alone, both) = (alone.for_user(user.to_user()), both.for_user(user.to_user()));
        for flow in &flows {
            let (to, application) = (flow.destination(), flow.application());
            let before = decided(alone.judge(&to, Some(&application)));
            let after = decided(both.judge(&to, Some(&application)));
            prop_assert!(
                is_at_least_as_strict(&after, &before),
                "{:?}: {:?}, then {:?}\n{}\n{}", flow, before, after, file, users_file(&users, on_down[2])
            );
            if before.rule() != "default" {
                prop_assert_eq!(before, after);
                continue;
            }
            let Decision::Tunnel(permit) = &after else { continue };
            if let Some(to) = permit.elsewhere() {
                let there = decided(alone.judge(to, Some(&application)));
                prop_assert!(
                    is_at_least_as_strict(&after, &there),
                    "{:?}: {:?}, and there {:?}\n{}\n{}", flow, after, there, file, users_file(&users, on_down[2])
                );
            }
        }
    }
}
