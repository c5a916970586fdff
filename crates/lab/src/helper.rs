//! The hidden subcommands by which the lab's processes start each other. Called first thing in `main`, before threads.

use std::io;
use std::path::Path;

use crate::{container, dns, image};

/// Runs the hidden subcommand that the arguments (without the program's name) name; gives the exit code. None if they
/// name none: then it is an ordinary command line.
pub fn run(arguments: &[String]) -> Option<i32> {
    let (name, rest) = arguments.split_first()?;
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let code = match (name.as_str(), rest.as_slice()) {
        ("lab-container", [directory]) => reported(container::shim::main(Path::new(directory))),
        ("lab-init", [directory, root]) => container::init::main(Path::new(directory), Path::new(root)),
        ("lab-exec", [directory, mode, ..]) => {
            let command = arguments.get(3..).unwrap_or_default();
            container::exec::main(Path::new(directory), *mode == "tty", command)
                .unwrap_or_else(|error| complain(&error.to_string(), 126))
        }
        ("lab-run", [mode, ..]) => {
            let command = arguments.get(2..).unwrap_or_default();
            let (error, code) = container::exec::run(*mode == "tty", command);
            complain(&error.to_string(), code)
        }
        ("lab-image", [name, ..]) => run_image(name, arguments.get(2..).unwrap_or_default()),
        _ => return None,
    };
    Some(code)
}

/// Runs the program of a built-in image.
fn run_image(name: &str, arguments: &[String]) -> i32 {
    match name {
        "agnhost" => image::agnhost::main(arguments),
        "pause" => image::agnhost::pause().unwrap_or_else(|error| complain(&error, 1)),
        "web" => reported(on_runtime(image::web::serve())),
        "dns" => reported(on_runtime(dns::serve())),
        other => complain(&format!("no built-in image {other:?}"), 2),
    }
}

fn on_runtime<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn reported<T>(result: io::Result<T>) -> i32 {
    result.map_or_else(|error| complain(&error.to_string(), 1), |_| 0)
}

#[expect(clippy::print_stderr, reason = "these are programs of their own")]
fn complain(message: &str, code: i32) -> i32 {
    eprintln!("{message}");
    code
}
