//! One client's conversation: the greeting, the negotiation, a reply to every request.
//!
//! Knows the envelope of requests and replies, and no socket.

use serde_json::{Map, Value, json};

use crate::dispatch::Dispatcher;
use crate::error::QmpError;
use crate::qmp::{self, QmpCapabilities};
use crate::schema::{Input, Mode, Qapi};

/// The state of a conversation.
#[derive(Debug, Default)]
pub struct Session {
    negotiated: bool,
}

/// A well-formed request.
struct Request<'a> {
    command: &'a str,
    arguments: Option<&'a Value>,
}

impl Session {
    /// What the daemon says first.
    pub fn greeting() -> Value {
        json!({"QMP": {"version": qmp::version().encode(), "capabilities": []}})
    }

    /// Whether the client may use commands other than `qmp_capabilities` and gets events.
    pub fn is_negotiated(&self) -> bool {
        self.negotiated
    }

    /// The reply to a request, or to text that is none.
    pub fn answer(&mut self, request: Result<Value, QmpError>, dispatcher: &Dispatcher) -> Value {
        let mut reply = Map::new();
        let outcome = request.and_then(|request| {
            let Value::Object(members) = request else {
                return Err(QmpError::generic("QMP input must be a JSON object"));
            };
            let outcome = self.run(&members, dispatcher);
            reply.extend(members.into_iter().filter(|(name, _)| name == "id"));
            outcome
        });
        match outcome {
            Ok(value) => reply.insert("return".into(), value),
            Err(error) => {
                let error = json!({"class": error.class.name(), "desc": error.desc});
                reply.insert("error".into(), error)
            }
        };
        Value::Object(reply)
    }

    fn run(&mut self, members: &Map<String, Value>, dispatcher: &Dispatcher) -> Result<Value, QmpError> {
        let request = Request::new(members)?;
        let empty = Value::Object(Map::new());
        let arguments = request.arguments.unwrap_or(&empty);
        if self.negotiated {
            return dispatcher.execute(request.command, arguments);
        }
        if request.command != "qmp_capabilities" {
            let text = "Expecting capabilities negotiation with 'qmp_capabilities'";
            return Err(QmpError::command_not_found(text));
        }
        let wanted = QmpCapabilities::decode(Input::new(arguments, Mode::Json))?;
        qmp::check_capabilities(&wanted)?;
        self.negotiated = true;
        Ok(empty)
    }
}

impl<'a> Request<'a> {
    /// Checks the members of the envelope, in their order.
    fn new(members: &'a Map<String, Value>) -> Result<Self, QmpError> {
        let mut command = None;
        let mut arguments = None;
        let error = |text: String| Err(QmpError::generic(format!("QMP input {text}")));
        for (name, value) in members {
            match (name.as_str(), value) {
                ("execute", Value::String(name)) => command = Some(name.as_str()),
                ("execute", _) => return error("member 'execute' must be a string".into()),
                ("arguments", Value::Object(_)) => arguments = Some(value),
                ("arguments", _) => return error("member 'arguments' must be an object".into()),
                ("id", _) => {}
                _ => return error(format!("member '{name}' is unexpected")),
            }
        }
        match command {
            Some(command) => Ok(Self { command, arguments }),
            None => error("lacks member 'execute'".into()),
        }
    }
}
