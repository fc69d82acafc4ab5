//! The API server over plain HTTP, by `kubectl proxy`: for what must be fast, or be said in another's name.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Stdio},
};

use serde_json::Value;

use crate::kube::command;

/// A proxy that ends with the value.
pub struct Api {
    address: SocketAddr,
    kubectl: Child,
}

impl Api {
    /// Starts it, with more flags of `kubectl proxy`.
    pub fn start(flags: &[&str]) -> Self {
        let mut kubectl = command("kubectl");
        kubectl.args(["proxy", "--port=0"]).args(flags).stdout(Stdio::piped());
        let mut kubectl = kubectl.spawn().expect("kubectl is installed");
        let mut said = String::new();
        let _ = BufReader::new(kubectl.stdout.take().expect("piped")).read_line(&mut said);
        let address = said.trim().rsplit(' ').next().and_then(|address| address.parse().ok()).expect(&said);
        Self { address, kubectl }
    }

    /// Makes one request and gives the answer, head and body.
    pub fn ask(&self, method: &str, path: &str, content_type: &str, body: &Value) -> String {
        let body = body.to_string();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: {content_type}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).expect("kubectl proxy listens");
        stream.write_all(head.as_bytes()).expect("it reads");
        // An answer may come before all is read, and be followed by a reset.
        let _ = stream.write_all(body.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
