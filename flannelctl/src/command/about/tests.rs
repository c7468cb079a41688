use super::*;
use crate::cli::Cli;
use clap::CommandFactory as _;
use std::path::Path;

/// Every page with what it sets as code within its sentences.
fn inline_code() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut found = Vec::new();
    for page in pages.chain([root.join("README.md")]) {
        let text = fs::read_to_string(&page).unwrap();
        let prose = text.lines().filter(|line| !line.starts_with("    "));
        found.extend(prose.flat_map(|line| {
            line.split('`').skip(1).step_by(2).map(|code| (page.display().to_string(), code.to_owned()))
        }));
    }
    found
}

/// The command that the words name, or the word that is no command.
fn resolve<'a>(root: &'a Command, words: &str) -> Result<&'a Command, String> {
    let mut command = root;
    for word in words.split_whitespace().take_while(|word| !word.starts_with('-')) {
        match command.find_subcommand(word) {
            Some(child) => command = child,
            None if command.has_subcommands() => return Err(word.to_owned()),
            None => break,
        }
    }
    Ok(command)
}

fn flags_of(command: &Command, found: &mut Vec<String>) {
    let names = |argument: &Arg| {
        let aliases = argument.get_visible_aliases().unwrap_or_default();
        argument.get_long().into_iter().chain(aliases).map(str::to_owned).collect::<Vec<_>>()
    };
    found.extend(command.get_arguments().flat_map(names).map(|name| format!("--{name}")));
    command.get_subcommands().for_each(|child| flags_of(child, found));
}

/// Blocks are run by end-to-end tests; this is about the rest.
#[test]
fn commands_and_flags_in_the_documentation_exist() {
    let mut root = Cli::command();
    root.build();
    let mut known = Vec::new();
    flags_of(&root, &mut known);
    known.extend(flags().map(|flag| format!("--{}", flag.name)));
    let mut commands = 0;
    for (page, code) in inline_code() {
        if let Some(words) = code.strip_prefix("flannelctl ") {
            commands += 1;
            if let Err(word) = resolve(&root, words) {
                panic!("{page}: `{code}`: there is no command {word}");
            }
        }
        // Those that begin with another program are its own.
        for word in code.split([' ', '=', ',']).filter(|_| code.starts_with("--")) {
            const OTHERS: [&str; 7] =
                ["--flag", "--etcd-*", "--random-fully", "--standing", "--long", "--peer", "--target"];
            const DOCKER: [&str; 3] = ["--bip", "--mtu", "--ip-masq"];
            const CONTROLLER_MANAGER: [&str; 3] =
                ["--allocate-node-cidrs", "--cluster-cidr", "--node-cidr-mask-size"];
            let exists = !word.starts_with("--") || word == "--" || known.iter().any(|flag| flag == word);
            assert!(
                exists
                    || OTHERS.contains(&word)
                    || DOCKER.contains(&word)
                    || CONTROLLER_MANAGER.contains(&word),
                "{page}: `{code}`: there is no flag {word}"
            );
        }
    }
    assert!(commands > 5, "only {commands} commands were found");
}
