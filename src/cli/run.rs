//! `ftps2sftp run`: the gateway in the foreground.

use std::path::Path;
use std::process::ExitCode;

use tracing::warn;

use crate::app::confinement::{self, Missing};
use crate::app::{Gateway, Process, StartError, check_materials, log_warnings};
use crate::config::error::Problem;
use crate::config::{self, Config};

use super::{FAILED, complain, complain_of, runtime};

pub(super) fn main(file: &Path) -> ExitCode {
    let mut loaded = config::load(file);
    let warnings = std::mem::take(&mut loaded.warnings);
    let directories = confinement::directories(file, &loaded);
    let config = match check_materials(loaded) {
        Ok(config) => config,
        Err(problems) => return complain_of(file, &problems),
    };
    let missing = confinement::enter(&directories, &confinement::written_directories(&config.audit));
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    match runtime.block_on(serve(file, config, &warnings, &missing)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

async fn serve(file: &Path, config: Config, warnings: &[Problem], missing: &Missing) -> Result<(), StartError> {
    let process = Process::start(&config.log)?;
    log_warnings(warnings);
    if !missing.is_empty() {
        warn!(%missing, "the process is less confined than it could be");
    }
    Gateway::bind(config)?.following(file).serve(process).await;
    Ok(())
}
