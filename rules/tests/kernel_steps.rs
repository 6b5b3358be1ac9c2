//! What a kernel is given of a policy.

mod reading;
mod steps;

use reading::policy;
use steps::check_program;

const FILE: &str = include_str!("example.yaml");

#[track_caller]
fn check_kernel(rules: &str, expected: &str) {
    let text =
        format!("version: 1\nzones: {{z: {{gateways: [gw]}}}}\ndefault: pass\nrules:\n{rules}");
    check_program(&policy(&text).kernel_program(), expected);
}

#[test]
fn the_kernel_gets_its_share() {
    check_program(
        &policy(FILE).kernel_program(),
        "ask 10.20.0.0/16 10.30.0.1/32 10.30.0.2/31 10.30.0.4/30 10.30.0.8/31 443-443,8000-8100\n\
         block 0.0.0.0/0 ::/0 23-23\n\
         else pass",
    );
    // Neighbours that say the same are one step, and their networks are joined.
    check_kernel(
        "  - {to: 10.0.0.0/9, action: tunnel}\n  - {to: 10.128.0.0/9, app: curl, action: block}\n  - {to: erp.corp, action: block}\n  - {to: 11.0.0.0/8, action: tunnel}\n",
        "ask 10.0.0.0/7 all\nelse pass",
    );
    // Other ports: two steps.
    check_kernel(
        "  - {to: 10.0.0.0/9, ports: [80], action: block}\n  - {to: 10.128.0.0/9, ports: [81], action: block}\n",
        "block 10.0.0.0/9 80-80\nblock 10.128.0.0/9 81-81\nelse pass",
    );
    // Order is kept where verdicts differ.
    check_kernel(
        "  - {to: 10.1.0.0/16, action: pass}\n  - {to: 10.0.0.0/8, action: tunnel}\n",
        "pass 10.1.0.0/16 all\nask 10.0.0.0/8 all\nelse pass",
    );
    // What matches everything is the default; nothing behind it counts.
    check_kernel(
        "  - {to: 10.1.0.0/16, action: pass}\n  - {app: curl, action: block}\n  - {to: 10.0.0.0/8, action: block}\n",
        "pass 10.1.0.0/16 all\nelse ask",
    );
    check_kernel(
        "  - {to: 10.1.0.0/16, action: pass}\n  - {to: [0.0.0.0/0, \"::/0\"], action: block}\n",
        "pass 10.1.0.0/16 all\nelse block",
    );
    // The last step says what the default says.
    check_kernel("  - {to: 10.1.0.0/16, action: pass}\n", "else pass");
    check_kernel("  - {to: \"*.corp\", action: tunnel}\n", "else pass");
}

#[test]
fn steps_that_say_the_same_are_one_where_order_allows() {
    // Rules about other addresses in between do not matter.
    check_kernel(
        "  - {to: 10.1.0.0/16, action: block}\n  - {to: 11.1.0.0/16, action: tunnel}\n  - {to: 10.3.0.0/16, action: block}\n  - {to: 11.3.0.0/16, action: tunnel}\n",
        "block 10.1.0.0/16 10.3.0.0/16 all\nask 11.1.0.0/16 11.3.0.0/16 all\nelse pass",
    );
    // What is about the same addresses and says something else stays before what comes behind it.
    check_kernel(
        "  - {to: 10.1.0.0/16, action: block}\n  - {to: 10.2.3.0/24, action: tunnel}\n  - {to: 10.2.0.0/16, action: block}\n",
        "block 10.1.0.0/16 all\nask 10.2.3.0/24 all\nblock 10.2.0.0/16 all\nelse pass",
    );
    // What the default says needs no step, unless it is an exception to a later one.
    check_kernel(
        "  - {to: 10.1.0.0/16, action: pass}\n  - {to: 12.1.2.3, action: pass}\n  - {to: [11.1.0.0/16, 12.0.0.0/8], action: block}\n",
        "pass 12.1.2.3/32 all\nblock 11.1.0.0/16 12.0.0.0/8 all\nelse pass",
    );
}

#[test]
fn a_large_file_takes_few_steps() {
    let mut rules = String::new();
    for rule in 0..20_000 {
        let network = format!("10.{}.{}.0/24", rule / 256, rule % 256);
        let action = ["block", "pass", "tunnel"][rule % 3];
        let ports = 80 + rule % 2;
        rules += &format!("  - {{to: {network}, ports: {ports}, action: {action}}}\n");
    }
    let text =
        format!("version: 1\nzones: {{z: {{gateways: [gw]}}}}\ndefault: pass\nrules:\n{rules}");
    let program = policy(&text).kernel_program();
    let networks: usize = program.steps.iter().map(|step| step.to.len()).sum();
    assert_eq!((program.steps.len(), networks), (4, 13_333));
    assert!(program.is_whole);
}

#[test]
fn the_kernel_asks_as_the_first_rule_that_could_match_says() {
    // Of one destination the first word counts, whatever the later rules say.
    check_kernel(
        "  - {app: curl, to: 10.1.0.0/16, action: tunnel}\n  - {to: 10.0.0.0/8, action: tunnel, connect: early}\n",
        "ask 10.1.0.0/16 all\nhand over 10.0.0.0/8 all\nelse pass",
    );
    check_kernel(
        "  - {app: curl, to: 10.1.0.0/16, action: tunnel, connect: early}\n  - {to: 10.0.0.0/8, action: tunnel}\n",
        "ask 10.0.0.0/8 all\nelse pass",
    );
    // Whose an early connection is, is asked before it is accepted.
    check_kernel(
        "  - {app: curl, to: 10.1.0.0/16, action: tunnel, connect: early}\n  - {to: 10.1.0.0/16, action: tunnel, connect: early}\n",
        "ask 10.1.0.0/16 all\nhand over 10.1.0.0/16 all\nelse pass",
    );
    // Neighbours with the same networks and ports stay apart when their words differ.
    check_kernel(
        "  - {app: curl, to: 10.0.0.0/8, action: tunnel}\n  - {to: 10.0.0.0/8, action: tunnel, connect: early}\n",
        "ask 10.0.0.0/8 all\nhand over 10.0.0.0/8 all\nelse pass",
    );
    // To pass or to block by the application is a verdict.
    check_kernel(
        "  - {app: curl, to: 10.1.0.0/16, action: pass}\n  - {app: curl, to: 10.2.0.0/16, action: block}\n",
        "ask 10.1.0.0/16 10.2.0.0/16 all\nelse pass",
    );
    // What matches everything is the default, with its word.
    check_kernel(
        "  - {to: 10.1.0.0/16, action: tunnel}\n  - {to: any, action: tunnel, connect: early}\n",
        "ask 10.1.0.0/16 all\nelse hand over",
    );
}
