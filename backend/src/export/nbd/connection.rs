//! One client, from its connection to its last I/O.

use super::clients::Client;
use super::export::NbdExport;
use super::handshake::{Catalog, Chosen, DATA_MAX, Handshake, Next, Offer, Tls};
use super::server::ServerShared;
use super::service::Service;
use crate::error::IoError;
use crate::io::{Memory, Socket};
use crate::nbd_wire::handshake::{Listed, Malformed, OptionHeader};
use crate::reactor::{EventBell, Handle};
use crate::stream::{SecureError, Stream};
use crate::tls::TlsError;
use std::pin::pin;
use std::sync::Arc;

/// A client that has just connected.
pub struct Arrival {
    /// Its connection.
    pub socket: Arc<Socket>,
    /// Its place among the clients of the server.
    pub client: Client,
    /// The server.
    pub server: Arc<ServerShared>,
}

/// Why a client has not chosen an export.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the client has left")]
    Left,
    #[error("an option that ends the connection")]
    Ended,
    #[error("the export has been removed")]
    Gone,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Io(#[from] IoError),
    #[error(transparent)]
    Secure(#[from] SecureError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Serves a client until it leaves, on thread `thread` of the pool. All its I/O has ended when this returns.
pub async fn serve(io: &Handle, bell: &Arc<EventBell>, arrival: Arrival, thread: usize) {
    let Arrival { socket, client, server } = arrival;
    let stream = Stream::plain(io, socket.clone());
    let agreed = in_time(io, &socket, &server, shake_hands(stream, &socket, &server)).await;
    let Agreed { stream, chosen, export, user } = match agreed {
        Ok(agreed) => agreed,
        Err(error) => return tracing::debug!(%error, "an NBD client has chosen no export"),
    };
    tracing::info!(export = %export.id, "NBD client connected");
    let end = Service::run(io, bell, stream, export.clone(), chosen, thread).await;
    tracing::info!(export = %export.id, %end, "NBD client disconnected");
    drop((user, client));
}

/// Ends the connection if the handshake takes too long.
async fn in_time<T>(io: &Handle, socket: &Socket, server: &ServerShared, handshake: impl Future<Output = T>) -> T {
    let mut handshake = pin!(handshake);
    let deadline = server.handshake_max.map(|most| {
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        io.now().saturating_add(most)
    });
    let mut late = pin!(async {
        match deadline {
            Some(deadline) => io.sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    });
    let mut is_late = false;
    std::future::poll_fn(|cx| {
        if !is_late && late.as_mut().poll(cx).is_ready() {
            is_late = true;
            // What it waits for ends with that.
            socket.shutdown();
        }
        handshake.as_mut().poll(cx)
    })
    .await
}

/// A client that has chosen an export.
struct Agreed {
    stream: Stream,
    chosen: Chosen,
    export: Arc<NbdExport>,
    /// Its place among the clients of the export.
    user: Client,
}

/// The client's export, and its place there; `None` if it is gone, or another, since it was described to the client.
fn enter(chosen: &Chosen, socket: &Arc<Socket>, server: &ServerShared) -> Option<(Arc<NbdExport>, Client)> {
    let export = server.find(chosen.offer.name.as_bytes())?;
    let user = export.clients.enter(socket, None)?;
    (export.offer(server) == chosen.offer).then_some((export, user))
}

async fn shake_hands(mut stream: Stream, socket: &Arc<Socket>, server: &ServerShared) -> Result<Agreed, Refused> {
    let tls = if server.tls.is_some() { Tls::Required } else { Tls::Never };
    let mut handshake = Handshake::new(server, tls);
    send(&stream, &Handshake::<ServerShared>::greeting()).await?;
    let mut flags = [0; 4];
    stream.reader.read_exact(&mut flags).await?;
    handshake.client_flags(flags)?;
    loop {
        let (header, data) = receive(&mut stream).await?;
        let mut out = Vec::new();
        let next = handshake.option(header, data.as_deref(), &mut out);
        // Before it hears of it: from then on the export is in use.
        let entered = match &next {
            Next::Serve(chosen) => Some(enter(chosen, socket, server).ok_or(Refused::Gone)?),
            _ => None,
        };
        if !out.is_empty() {
            send(&stream, &out).await?;
        }
        match (next, entered, &server.tls) {
            (Next::Serve(chosen), Some((export, user)), _) => {
                return Ok(Agreed { stream, chosen: *chosen, export, user });
            }
            (Next::Option, ..) => {}
            (Next::StartTls, _, Some(tls)) => {
                stream = stream.secure(tls.session()?).await?;
                handshake.tls_started();
            }
            (Next::StartTls | Next::Close | Next::Serve(_), ..) => {
                stream.writer.finish().await?;
                return Err(Refused::Ended);
            }
        }
    }
}

/// The next option, without its data if that is too much.
async fn receive(stream: &mut Stream) -> Result<(OptionHeader, Option<Vec<u8>>), Refused> {
    let reader = &mut stream.reader;
    if !reader.has_more().await? {
        return Err(Refused::Left);
    }
    let mut header = [0; OptionHeader::LEN];
    reader.read_exact(&mut header).await?;
    let header = OptionHeader::decode(&header)?;
    if header.len > DATA_MAX {
        reader.skip(u64::from(header.len)).await?;
        return Ok((header, None));
    }
    let mut data = vec![0; usize::try_from(header.len).unwrap_or(0)];
    reader.read_exact(&mut data).await?;
    Ok((header, Some(data)))
}

async fn send(stream: &Stream, bytes: &[u8]) -> Result<(), IoError> {
    stream.writer.write(bytes, Memory::empty()).await.1
}

impl Catalog for ServerShared {
    fn find(&self, name: &[u8]) -> Option<Offer> {
        ServerShared::find(self, name).map(|export| export.offer(self))
    }

    fn list(&self) -> Vec<Listed> {
        let listed = |export: &Arc<NbdExport>| Listed {
            name: export.name.clone(),
            description: export.description.clone().unwrap_or_default(),
        };
        self.exports().iter().map(listed).collect()
    }
}
