//go:build !race

package judged

const raceDivisor = 1
