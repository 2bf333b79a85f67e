//! Signals to token: who asks the server to stop, and how far the stop has come.
