//! A replacement for `protoc`, as prost-build calls it: compiles `.proto` files to a descriptor set with protox, so that a
//! build needs no system package. Started by `.cargo/protoc`.
//!
//! Supports `--include_imports`, `--include_source_info`, `-o FILE`, `-I DIR` and file names.

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let mut output = None;
    let mut includes = Vec::new();
    let mut files = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--version" => bail!("this protoc only compiles; it has no version"),
            "--include_imports" | "--include_source_info" => {}
            "-o" => output = arguments.next(),
            "-I" => includes.extend(arguments.next()),
            flag if flag.starts_with("--descriptor_set_out=") => {
                output = flag.split_once('=').map(|(_, path)| path.to_owned());
            }
            flag if flag.starts_with("--") => {}
            flag if flag.starts_with("-I") => includes.push(flag[2..].to_owned()),
            file => files.push(file.to_owned()),
        }
    }
    let output = output.context("no output file: -o FILE is missing")?;
    let mut compiler = protox::Compiler::new(&includes)?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    std::fs::write(&output, compiler.encode_file_descriptor_set())
        .with_context(|| format!("could not write {output}"))
}
