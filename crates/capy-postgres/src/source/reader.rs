//! One input read ahead by a thread of its own, into pooled buffers, through a bounded channel.
//!
//! A thread, because tokio's standard input copies through small buffers and cannot be cancelled.
//! Invariants: at most `READ_AHEAD_BUFFERS` + 1 buffers are read ahead; dropping the reader wakes
//! the thread out of a wait for input or for room and never waits for it; the end of the input is
//! an explicit message, so that a thread that dies cannot pass for the end of the data.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc;

use super::buffer::{BUFFER_BYTES, Buffer, BufferPool};

/// Full buffers waiting in the channel: 8 MiB, some 5 ms of a fast disk's work ahead.
pub(super) const READ_AHEAD_BUFFERS: usize = 8;

/// What is read.
pub(super) enum Input {
    /// A file, pipe or socket.
    File(File),
    /// Anything else that reads. A thread blocked inside it cannot be woken and lives until its
    /// read returns.
    Reader(Box<dyn Read + Send>),
}

impl Input {
    /// This process's standard input.
    pub(super) fn stdin() -> io::Result<Self> {
        Ok(Self::File(File::from(io::stdin().as_fd().try_clone_to_owned()?)))
    }

    /// Bytes in all, for a regular file.
    pub(super) fn size_bytes(&self) -> Option<u64> {
        match self {
            Self::File(file) => file.metadata().ok().filter(|m| m.is_file()).map(|m| m.len()),
            Self::Reader(_) => None,
        }
    }

    /// Asks the kernel for a larger pipe, or for more read-ahead of a file. Both are only hints:
    /// what is refused is left as it was.
    fn hint(&self) {
        if let Self::File(file) = self {
            let _ = rustix::pipe::fcntl_setpipe_size(file, BUFFER_BYTES);
            let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
        }
    }
}

enum Message {
    Data(Bytes),
    Failed(io::Error),
    End,
}

/// The receiving side.
#[derive(Debug)]
pub(super) struct Reader {
    messages: mpsc::Receiver<Message>,
    /// Its closing tells the thread to stop.
    _stop: OwnedFd,
    ended: bool,
}

impl Reader {
    /// Starts reading `input`.
    pub(super) fn start(input: Input, pool: BufferPool) -> io::Result<Self> {
        let (stopped, stop) = io::pipe()?;
        let (sender, messages) = mpsc::channel(READ_AHEAD_BUFFERS);
        input.hint();
        std::thread::Builder::new()
            .name("capy-read".to_owned())
            .spawn(move || run(input, &OwnedFd::from(stopped), &sender, &pool))?;
        Ok(Self { messages, _stop: stop.into(), ended: false })
    }

    /// The next bytes, never empty; `None` at the end.
    /// # Cancellation
    /// Safe.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let message = self.messages.recv().await;
        self.ended = !matches!(message, Some(Message::Data(_)));
        match message {
            Some(Message::Data(bytes)) => Ok(Some(bytes)),
            Some(Message::Failed(error)) => Err(error),
            Some(Message::End) => Ok(None),
            None => Err(io::Error::other("the reading thread died")),
        }
    }
}

/// The thread: ends at the end of the input, on an error, or when nobody listens any more.
fn run(mut input: Input, stopped: &OwnedFd, sender: &mpsc::Sender<Message>, pool: &BufferPool) {
    loop {
        let mut buffer = pool.take();
        let outcome = fill(&mut input, stopped, &mut buffer);
        if !buffer.is_empty() && sender.blocking_send(Message::Data(buffer.into_bytes())).is_err() {
            return;
        }
        let last = match outcome {
            Ok(Filled::Full) => continue,
            Ok(Filled::End) => Message::End,
            Ok(Filled::Stopped) => return,
            Err(error) => Message::Failed(error),
        };
        // If nobody listens, nobody needs to know.
        let _ = sender.blocking_send(last);
        return;
    }
}

enum Filled {
    Full,
    End,
    Stopped,
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut Input, stopped: &OwnedFd, buffer: &mut Buffer) -> io::Result<Filled> {
    while !buffer.room().is_empty() {
        let outcome = match input {
            Input::File(file) => {
                if !wait_for_input(file, stopped)? {
                    return Ok(Filled::Stopped);
                }
                file.read(buffer.room())
            }
            Input::Reader(reader) => reader.read(buffer.room()),
        };
        match outcome {
            Ok(0) => return Ok(Filled::End),
            Ok(len) => buffer.filled(len),
            // A descriptor that others set non-blocking is waited for above.
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Filled::Full)
}

/// Waits until `file` can be read; `false` when told to stop.
fn wait_for_input(file: &File, stopped: &OwnedFd) -> io::Result<bool> {
    loop {
        let mut waits = [PollFd::new(file, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut waits, None) {
            Err(rustix::io::Errno::INTR) => continue,
            outcome => outcome?,
        };
        let [input, stop] = waits;
        if !stop.revents().is_empty() {
            return Ok(false);
        }
        if !input.revents().is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc as std_mpsc;

    use super::*;

    /// Tells when it is dropped: that is, when the thread that owns it has ended.
    struct TellsEnd<R>(R, std_mpsc::Sender<()>);

    impl<R: Read> Read for TellsEnd<R> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            self.0.read(to)
        }
    }

    impl<R> Drop for TellsEnd<R> {
        fn drop(&mut self) {
            let _ = self.1.send(());
        }
    }

    #[tokio::test]
    async fn what_is_read_arrives_whole_and_in_order() {
        let data: Vec<u8> = (0..3 * BUFFER_BYTES + 17).map(|i| (i / 1000) as u8).collect();
        let input = Input::Reader(Box::new(io::Cursor::new(data.clone())));
        let mut reader = Reader::start(input, BufferPool::default()).unwrap();
        let mut read = Vec::new();
        while let Some(bytes) = reader.next().await.unwrap() {
            assert!(!bytes.is_empty());
            read.extend_from_slice(&bytes);
        }
        assert!(read == data);
        assert!(reader.next().await.unwrap().is_none(), "the end stays the end");
    }

    #[tokio::test]
    async fn a_pipe_written_in_small_pieces_arrives_in_full_buffers() {
        let (pipe, mut writer) = io::pipe().unwrap();
        let pieces = 2 * BUFFER_BYTES / 4096 + 1;
        let producer =
            std::thread::spawn(move || (0..pieces).try_for_each(|i| writer.write_all(&[i as u8; 4096])));
        let mut reader =
            Reader::start(Input::File(File::from(OwnedFd::from(pipe))), BufferPool::default()).unwrap();
        let mut lengths = Vec::new();
        while let Some(bytes) = reader.next().await.unwrap() {
            assert!(bytes.chunks(4096).all(|piece| piece.iter().all(|&b| b == piece[0])));
            lengths.push(bytes.len());
        }
        assert_eq!(lengths, [BUFFER_BYTES, BUFFER_BYTES, 4096]);
        producer.join().unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_error_comes_after_the_bytes_before_it() {
        struct Failing(u8);
        impl Read for Failing {
            fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 > 2 {
                    return Err(io::Error::other("the cable was pulled"));
                }
                to[0] = self.0;
                Ok(1)
            }
        }
        let mut reader = Reader::start(Input::Reader(Box::new(Failing(0))), BufferPool::default()).unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap().as_ref(), [1, 2]);
        assert_eq!(reader.next().await.unwrap_err().to_string(), "the cable was pulled");
    }

    #[tokio::test]
    async fn a_thread_that_dies_is_an_error_and_not_the_end() {
        struct Panics;
        impl Read for Panics {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("expected in this test")
            }
        }
        let mut reader = Reader::start(Input::Reader(Box::new(Panics)), BufferPool::default()).unwrap();
        assert!(reader.next().await.is_err());
    }

    #[tokio::test]
    async fn reading_ahead_is_bounded_and_dropping_the_reader_ends_the_thread() {
        let (told, ended) = std_mpsc::channel();
        let input = Input::Reader(Box::new(TellsEnd(io::repeat(7), told)));
        let mut reader = Reader::start(input, BufferPool::default()).unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap().len(), BUFFER_BYTES);
        assert!(ended.try_recv().is_err(), "an endless input is not read to its end");
        drop(reader);
        ended.recv().unwrap();
    }

    #[test]
    fn a_thread_that_waits_for_a_silent_pipe_is_woken_by_the_drop() {
        let (silent, mut writer) = io::pipe().unwrap();
        let reader =
            Reader::start(Input::File(File::from(OwnedFd::from(silent))), BufferPool::default()).unwrap();
        drop(reader);
        // The thread held the only reading end: once it has ended, writing fails.
        while writer.write_all(b"x").is_ok() {
            std::thread::yield_now();
        }
    }
}
