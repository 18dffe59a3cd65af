//go:build race

package judged

// raceDivisor makes less of it where the race detector makes it ten times as slow: there is little for it to see here,
// and the whole is for a run without it.
const raceDivisor = 20
