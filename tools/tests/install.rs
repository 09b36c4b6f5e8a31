//! What a package installs beside the command: completions and manual pages, from the one definition of the command line.

mod common;

use common::promises::listed;
use common::{Dir, system, untouched};
use std::ffi::OsStr;
use std::fs;

/// The commands that the helps list, with those inside of others.
fn commands() -> Vec<String> {
    fn inside(command: &[&str], all: &mut Vec<String>) {
        let help = common::run(command.iter().chain(&["--help"])).exits(0).out;
        for name in listed(&help) {
            let command = [command, &[&name]].concat();
            all.push(command.join(" "));
            inside(&command, all);
        }
    }
    let mut all = Vec::new();
    inside(&[], &mut all);
    assert!(all.len() >= 31 && all.contains(&"checkpoint freeze".into()), "{all:?}");
    all
}

#[test]
fn completions_know_every_command_and_no_hidden_one() {
    let dir = Dir::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = dm!("completions", shell).exits(0).out;
        let words = commands().into_iter().flat_map(|name| name.split(' ').map(String::from).collect::<Vec<_>>());
        words.for_each(|word| assert!(script.contains(&word), "{shell}: {word}"));
        assert!(script.contains("--granularity") || script.contains("granularity"), "{shell}");
        assert!(!script.contains("demo-writer"), "{shell}");
        let json = dm!("completions", shell, "--output", "json").exits(0).json();
        assert_eq!((json["shell"].as_str(), json["script"].as_str()), (Some(shell), Some(&*script)));
        let file = dir.path(shell);
        fs::write(&file, script).expect("write");
        if ["bash", "zsh", "fish"].contains(&shell) {
            match system(shell, &[OsStr::new("-c"), OsStr::new("true")]) {
                true => assert!(system(shell, &[OsStr::new("-n"), file.as_os_str()]), "{shell}: syntax"),
                false => common::skipped(&format!("syntax of the completions: needs {shell}")),
            }
        }
    }
}

#[test]
fn every_command_has_a_manual_page_with_examples_and_exit_codes() {
    let dir = Dir::new();
    let pages = dir.path("share/man1");
    let json = dm!("manual", pages, "--output", "json").exits(0).json();
    let names: Vec<String> = commands().iter().map(|name| format!("dirtymap-{}.1", name.replace(' ', "-"))).collect();
    let said: Vec<&str> = json["pages"].as_array().expect("a list").iter().filter_map(|p| p.as_str()).collect();
    assert_eq!(said[0], "dirtymap.1");
    assert_eq!(said[1..], names);
    assert_eq!(fs::read_dir(&pages).expect("read").count(), said.len());
    for (name, command) in said.into_iter().zip(std::iter::once(String::new()).chain(commands())) {
        let page = fs::read_to_string(pages.join(name)).expect("a page");
        let example = format!("dirtymap {command}").trim_end().replace('-', "\\-");
        for part in [".TH ", "SYNOPSIS", ".SH \"EXAMPLES\"\n.nf\n", ".SH \"EXIT STATUS\"", "32  interrupted", &example]
        {
            assert!(page.contains(part), "{name}: {part}\n{page}");
        }
        // No line of an example is taken for an instruction.
        let lines =
            page.split_once("EXAMPLES").expect("examples").1.lines().filter(|line| line.starts_with(['.', '\'']));
        let long =
            page.lines().skip_while(|line| !line.contains("EXAMPLES")).find(|line| line.replace('\\', "").len() > 78);
        assert_eq!(long, None, "{name}");
        assert!(lines.into_iter().all(|line| [".nf", ".fi"].contains(&line) || line.starts_with(".SH \"")), "{name}");
        let page = pages.join(name);
        if system("man", &[OsStr::new("--version")]) {
            let ran =
                std::process::Command::new("man").args(["--warnings", "-l"]).arg(&page).output().expect("run man");
            assert!(ran.status.success() && ran.stderr.is_empty(), "{}", String::from_utf8_lossy(&ran.stderr));
        }
    }
}

#[test]
fn a_page_that_is_there_is_not_replaced_nor_are_others_written() {
    let dir = Dir::new();
    let page = dir.path("dirtymap-show.1");
    fs::write(&page, "mine").expect("write");
    untouched(&page, || dm!("manual", dir.path("")).exits(8).says("exists"));
    dm!("manual", page).exits(8);
}
