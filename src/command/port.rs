//! PASV and PORT (RFC 959 §4.1.2), EPSV and EPRT (RFC 2428).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::Resumption;
use crate::ftp::argument::{self, ArgumentError, Epsv};
use crate::session::logged_in::LoggedIn;
use crate::session::services::Services;
use crate::transfer::announced::Unresolved;
use crate::transfer::endpoint::{DataEndpoint, DataMode, Dial, EndpointRules};
use crate::transfer::passive::{Awaited, Claim};

use super::failure::CommandError;
use super::{Argument, Step};

/// Below it ports belong to services (RFC 6335 §6).
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

pub(super) async fn pasv(
    session: &mut LoggedIn,
    services: &Services,
    _argument: Argument<'_>,
) -> Result<Step, CommandError> {
    if session.parameters.only_extended_passive {
        return Err(CommandError::Refused(501, "EPSV ALL was given, use EPSV"));
    }
    let address = announced(session, services).await?;
    let port = open(session, services, DataMode::Pasv).await?;
    let [a, b, c, d] = address.octets();
    let [high, low] = port.to_be_bytes();
    Ok(Step::reply(227, format!("Entering Passive Mode ({a},{b},{c},{d},{high},{low}).")))
}

pub(super) async fn epsv(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    let wanted = match argument::epsv(argument.optional()) {
        Ok(wanted) => wanted,
        Err(ArgumentError::Unsupported) => return Err(other_family(session)),
        Err(error) => return Err(error.into()),
    };
    let dialled = session.front.dialled.ip();
    let right = match wanted {
        Epsv::All => {
            session.parameters.only_extended_passive = true;
            return Ok(Step::reply(200, "EPSV ALL noted"));
        }
        Epsv::Any => true,
        Epsv::Ipv4 => dialled.is_ipv4(),
        Epsv::Ipv6 => dialled.is_ipv6(),
    };
    if !right {
        return Err(other_family(session));
    }
    let port = open(session, services, DataMode::Epsv).await?;
    Ok(Step::reply(229, format!("Entering Extended Passive Mode (|||{port}|)")))
}

/// RFC 2428 §3: data goes over the protocol of the control connection.
fn other_family(session: &LoggedIn) -> CommandError {
    if session.front.dialled.is_ipv4() {
        CommandError::Refused(522, "Network protocol not supported, use (1)")
    } else {
        CommandError::Refused(522, "Network protocol not supported, use (2)")
    }
}

/// The address that 227 tells.
async fn announced(session: &LoggedIn, services: &Services) -> Result<Ipv4Addr, CommandError> {
    let IpAddr::V4(dialled) = session.front.dialled.ip() else {
        return Err(CommandError::Refused(522, "PASV is for IPv4 only, use EPSV (2)"));
    };
    let told = services.announced.to(session.front.peer.ip(), dialled).await;
    told.map_err(|Unresolved| CommandError::Refused(425, "The passive address cannot be resolved now, use EPSV"))
}

pub(super) async fn port(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    allow_active(session, services)?;
    let to = argument::port(argument.required()?)?;
    if session.front.dialled.is_ipv6() {
        return Err(CommandError::Refused(522, "PORT is for IPv4 only, use EPRT (2)"));
    }
    call_back(session, services, to, DataMode::Port).await
}

pub(super) async fn eprt(
    session: &mut LoggedIn,
    services: &Services,
    argument: Argument<'_>,
) -> Result<Step, CommandError> {
    allow_active(session, services)?;
    let to = match argument::eprt(argument.required()?) {
        Ok(to) => to,
        Err(ArgumentError::Unsupported) => {
            return Err(CommandError::Refused(522, "Network protocol not supported, use (1,2)"));
        }
        Err(error) => return Err(error.into()),
    };
    call_back(session, services, to, DataMode::Eprt).await
}

fn allow_active(session: &LoggedIn, services: &Services) -> Result<(), CommandError> {
    if services.active.is_none() {
        return Err(CommandError::Refused(502, "Active mode is turned off here, use EPSV or PASV"));
    }
    if session.parameters.only_extended_passive {
        return Err(CommandError::Refused(501, "EPSV ALL was given, use EPSV"));
    }
    Ok(())
}

/// The next transfer connects to the client.
///
/// SECURITY: to the client itself and to nobody else, and not to where services listen (RFC 2577 §3): a gateway must not
/// be used to reach others.
async fn call_back(
    session: &mut LoggedIn,
    services: &Services,
    to: SocketAddr,
    mode: DataMode,
) -> Result<Step, CommandError> {
    if to.ip() != session.front.peer.ip() {
        return Err(CommandError::Refused(501, "That is not your address"));
    }
    if to.port() < FIRST_UNPRIVILEGED_PORT {
        return Err(CommandError::Refused(504, "Data ports below 1024 are not used"));
    }
    close_former(session).await;
    let source_port = services.active.and_then(|active| active.source_port).unwrap_or(0);
    let from = SocketAddr::new(session.front.local, source_port);
    session.endpoint = Some(DataEndpoint::active(Dial { to, from }, rules(session, services, mode)));
    Ok(Step::reply(200, "Data port noted"))
}

async fn open(session: &mut LoggedIn, services: &Services, mode: DataMode) -> Result<u16, CommandError> {
    // RFC 959 §4.1.2: a new port replaces the one before, which is given back first.
    close_former(session).await;
    let awaited =
        if session.policy().data_peer_check { Awaited::From(session.front.peer.ip()) } else { Awaited::FromAnybody };
    let is_proved =
        session.policy().data_tls_resumption == Resumption::Require && session.front.protection.is_private();
    let proof = is_proved.then(|| session.front.tls.clone());
    let claim = Claim { awaited, whose: session.front.id, proof };
    let reservation = services.passive.reserve(session.front.local, claim)?;
    let port = reservation.port();
    session.endpoint = Some(DataEndpoint::passive(reservation, rules(session, services, mode)));
    Ok(port)
}

async fn close_former(session: &mut LoggedIn) {
    if let Some(former) = session.endpoint.take() {
        former.close().await;
    }
    if let Some(declined) = session.declined.take() {
        declined.close().await;
    }
}

fn rules(session: &LoggedIn, services: &Services, mode: DataMode) -> EndpointRules {
    EndpointRules {
        tls: session.front.tls.clone(),
        protection: session.front.protection.clone(),
        mode,
        resumption: session.policy().data_tls_resumption,
        connect_timeout: services.timeouts.data_connect,
        handshake_timeout: services.timeouts.tls_handshake,
        idle_timeout: services.timeouts.data_idle,
    }
}
