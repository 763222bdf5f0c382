//! Monitors and the character devices they talk over, by name.
//!
//! A client may connect as soon as its character device is there. It is served when all options have taken effect, so
//! that its commands find what they name.

use super::Refusal;
use qmp_lite::chardev::Chardev;
use qmp_lite::dispatch::Dispatcher;
use qmp_lite::monitor::{Monitor, MonitorOptions};
use std::sync::Arc;
use tidemark_backend::error::errno_text;

/// A character device, until a monitor takes it.
struct Device {
    id: String,
    free: Option<Chardev>,
}

/// All of them.
pub struct Monitors {
    dispatcher: Arc<Dispatcher>,
    devices: Vec<Device>,
    waiting: Vec<(Chardev, MonitorOptions)>,
    running: Vec<Monitor>,
}

impl Monitors {
    /// None yet. Their commands go to `dispatcher`.
    pub fn new(dispatcher: Arc<Dispatcher>) -> Self {
        Self { dispatcher, devices: Vec::new(), waiting: Vec::new(), running: Vec::new() }
    }

    /// Opens what `--chardev` describes.
    pub fn add_chardev(&mut self, option: &str) -> Result<(), Refusal> {
        let chardev = Chardev::open(option)?;
        let id = chardev.id().to_owned();
        if self.devices.iter().any(|device| device.id == id) {
            chardev.close();
            return Err(Refusal { text: format!("Chardev '{id}' already exists"), hint: None });
        }
        self.devices.push(Device { id, free: Some(chardev) });
        Ok(())
    }

    /// Takes note of what `--monitor` describes.
    pub fn add_monitor(&mut self, option: &str) -> Result<(), Refusal> {
        let options = MonitorOptions::parse(option)?;
        let id = &options.chardev;
        let refuse = |text: String| Refusal { text, hint: None };
        let device = self.devices.iter_mut().find(|device| device.id == *id);
        let device = device.ok_or_else(|| refuse(format!("chardev \"{id}\" not found")))?;
        let chardev = device.free.take().ok_or_else(|| refuse(format!("chardev '{id}' is already in use")))?;
        self.waiting.push((chardev, options));
        Ok(())
    }

    /// Serves clients from now on.
    pub fn serve(&mut self) -> Result<(), Refusal> {
        for (chardev, options) in std::mem::take(&mut self.waiting) {
            let monitor = Monitor::start(chardev, &options, self.dispatcher.clone());
            let text = |error| format!("could not start a thread: {}", errno_text(&error));
            self.running.push(monitor.map_err(|error| Refusal { text: text(error), hint: None })?);
        }
        Ok(())
    }

    /// Ends all monitors after what they still have to say, and removes the sockets' files.
    pub fn stop(self) {
        self.running.into_iter().for_each(Monitor::stop);
        self.waiting.into_iter().for_each(|(chardev, _)| chardev.close());
        self.devices.into_iter().filter_map(|device| device.free).for_each(|chardev| chardev.close());
    }
}
