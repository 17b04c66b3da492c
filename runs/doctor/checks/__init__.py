"""One concern a file; each check is a function that `evomerge.runs.doctor.check.check` registers."""
