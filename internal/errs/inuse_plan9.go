package errs

// addrInUse is nil: the system has no such error.
var addrInUse error
