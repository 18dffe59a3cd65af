//go:build race

package judged

// raceDivisor makes fewer worlds of it where the race detector makes each ten times as slow.
const raceDivisor = 40
