//go:build race

package transport

// raceEnabled is for tests of memory, of which the race detector takes its share.
const raceEnabled = true
