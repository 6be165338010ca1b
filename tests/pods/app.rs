//! The application of the pods in tests/pods: a server that says whom it sees, and a client.
//!
//! app serve NAME PORT…    answers HTTP on every port, IPv4 and IPv6, with `NAME:PORT sees ADDRESS`
//! app get ADDRESS:PORT [PATH]    prints the body of the answer

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use std::{env, error, process, thread};

type Outcome = Result<(), Box<dyn error::Error>>;

const PATIENCE: Duration = Duration::from_secs(5);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["serve", name, ref ports @ ..] => serve(name, ports),
        ["get", server] => get(server, "/"),
        ["get", server, path] => get(server, path),
        _ => Err("usage: app serve NAME PORT… | app get ADDRESS:PORT [PATH]".into()),
    };
    if let Err(error) = outcome {
        eprintln!("app: {error}");
        process::exit(1);
    }
}

fn serve(name: &str, ports: &[&str]) -> Outcome {
    let listeners = ports.iter().map(|port| TcpListener::bind(format!("[::]:{port}"))).collect::<Result<Vec<_>, _>>()?;
    thread::scope(|scope| {
        for (listener, port) in listeners.iter().zip(ports) {
            scope.spawn(move || {
                for client in listener.incoming().flatten() {
                    // A client that hangs up is no concern of the others.
                    let _ = answer(&client, &format!("{name}:{port}"));
                }
            });
        }
    });
    Ok(())
}

fn answer(mut client: &TcpStream, who: &str) -> Outcome {
    client.set_read_timeout(Some(PATIENCE))?;
    for line in BufReader::new(client).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let body = format!("{who} sees {}\n", client.peer_addr()?.ip().to_canonical());
    write!(client, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    Ok(())
}

fn get(server: &str, path: &str) -> Outcome {
    let address: SocketAddr = server.parse()?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer has no end of its header")?;
    if !head.contains(" 200 ") {
        return Err(format!("the answer is {head}").into());
    }
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    print!("{}", if chunked { joined(body)? } else { body.to_owned() });
    Ok(())
}

/// What a chunked body holds: each chunk comes after its length in hexadecimal; the last has none.
fn joined(mut body: &str) -> Result<String, Box<dyn error::Error>> {
    let mut whole = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n").ok_or("a chunk has no length")?;
        let length = usize::from_str_radix(length, 16)?;
        if length == 0 {
            return Ok(whole);
        }
        whole += rest.get(..length).ok_or("a chunk is cut short")?;
        body = rest.get(length + 2..).ok_or("a chunk has no end")?;
    }
}
