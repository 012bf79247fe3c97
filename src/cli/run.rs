//! `ftps2sftp run`: the gateway in the foreground.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tracing::warn;

use crate::app::confinement::{self, Missing};
use crate::app::descriptors;
use crate::app::{Gateway, Process, StartError, check_materials, log_warnings};
use crate::config::error::Problem;
use crate::config::{self, Config};

use super::{FAILED, complain, complain_of, runtime};

/// How long threads that block may take when all is over.
const END_LIMIT: Duration = Duration::from_secs(1);

pub(super) fn main(file: &Path) -> ExitCode {
    let mut loaded = config::load(file);
    let warnings = std::mem::take(&mut loaded.warnings);
    let directories = confinement::directories(file, &loaded);
    let config = match check_materials(loaded) {
        Ok(config) => config,
        Err(problems) => return complain_of(file, &problems),
    };
    let shortage = descriptors::shortage(&config, descriptors::raise());
    let missing = confinement::enter(&directories, &confinement::written_directories(&config.audit));
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let served = runtime.block_on(serve(file, config, &warnings, &missing, shortage.as_deref()));
    // Names that are being resolved are not waited for: a name server that hangs would hold up the end.
    runtime.shutdown_timeout(END_LIMIT);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

async fn serve(
    file: &Path,
    config: Config,
    warnings: &[Problem],
    missing: &Missing,
    shortage: Option<&str>,
) -> Result<(), StartError> {
    let process = Process::start(&config.log, &config.traces)?;
    log_warnings(warnings);
    if !missing.is_empty() {
        warn!(%missing, "the process is less confined than it could be");
    }
    if let Some(shortage) = shortage {
        warn!("{shortage}");
    }
    Gateway::bind(config)?.following(file).serve(process).await;
    Ok(())
}
