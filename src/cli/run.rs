//! `ftps2sftp run`: the gateway in the foreground.

use std::path::Path;
use std::process::ExitCode;

use tracing::warn;

use crate::app::{Gateway, check_materials};
use crate::config::{self, Config};
use crate::shutdown::Shutdown;
use crate::telemetry::{logging, metrics};

use super::{FAILED, complain, complain_of, runtime};

pub(super) fn main(file: &Path) -> ExitCode {
    let mut loaded = config::load(file);
    let warnings = std::mem::take(&mut loaded.warnings);
    let config = match check_materials(loaded) {
        Ok(config) => config,
        Err(problems) => return complain_of(file, &problems),
    };
    let _log = match logging::install(&config.log) {
        Ok(guard) => guard,
        Err(error) => {
            complain(&format!("error: log: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    for warning in warnings {
        warn!(key = %warning.at, "{}", warning.what);
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> ExitCode {
    let started = metrics::install()
        .map_err(|error| error.to_string())
        .and_then(|exposition| Gateway::bind(config, exposition).map_err(|error| error.to_string()))
        .and_then(|gateway| {
            Shutdown::on_signals().map(|signals| (gateway, signals)).map_err(|error| error.to_string())
        });
    match started {
        Ok((gateway, signals)) => {
            gateway.serve(signals).await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::from(FAILED)
        }
    }
}
