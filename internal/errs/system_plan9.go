package errs

// addrInUse is nil: the system has no such error.
var addrInUse error

// BrokenPipe is nil, which no error matches: the system has no such error.
var BrokenPipe error
