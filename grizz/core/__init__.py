"""Pure decisions: no I/O, no clock. `now` is passed in, in seconds of whatever clock the caller uses throughout."""
