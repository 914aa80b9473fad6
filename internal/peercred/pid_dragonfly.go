package peercred

// xucredPID says that a struct xucred has no PID.
const xucredPID = 0
