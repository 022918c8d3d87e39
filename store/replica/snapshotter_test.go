package replica

import "testing"

func TestLogIsKeptByBytesAndNoMoreThanSoManyEntries(t *testing.T) {
	var r recentSizes
	if n := r.fit(1000); n != 0 {
		t.Errorf("%d of no entries fit", n)
	}
	for size := range 5 {
		r.add(size * 100) // 0, 100, 200, 300, 400
	}
	for _, test := range []struct {
		bytes int64
		want  int
	}{{0, 0}, {399, 0}, {400, 1}, {699, 1}, {700, 2}, {1000, 5}, {5000, 5}} {
		if n := r.fit(test.bytes); n != test.want {
			t.Errorf("%d entries fit into %d bytes, want %d", n, test.bytes, test.want)
		}
	}
	for range 3 * keepEntries {
		r.add(1)
	}
	if n := r.fit(1 << 40); n != keepEntries {
		t.Errorf("%d entries are kept, want %d", n, keepEntries)
	}
}
