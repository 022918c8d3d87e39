package maple

// What an entry is reckoned to take of memory, besides its record: what was
// measured, in the middle of what it varies between. It must not depend on
// anything but the state, because replicas compare it with a limit, each for
// itself. For the same reason the sizes to which Go's allocator rounds are
// written down here, and not asked for.
const (
	tableShare    = 18 // its part of the bucket, at the load that arrayLen keeps
	orderShare    = 11 // its part of a page that is two thirds full, and of the page's separator
	reminderShare = 25 // its reminder in the heap of a lane
)

// size is the memory that r is reckoned to take: 0 for a tombstone, which is no
// part of the state. A record's past is not counted, so that nothing grows by
// going, nor by being renewed.
func (r *record) size() int64 {
	if r == nil || r.kind() == tombstone {
		return 0
	}
	length := r.length()
	if r.past() != nil {
		length -= int(pastSize)
	}
	n := tableShare + orderShare + allocated(length)
	if r.deadlines() != nil {
		n += reminderShare
	}
	return int64(n)
}

// length is that of the record's memory.
func (r *record) length() int { return int(r.offset()) + r.keyLen() + r.valueLen() }

// classes are the sizes that Go's allocator rounds to, up to 32 KiB; beyond, it
// rounds to pages.
var classes = [...]uint16{
	8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256,
	288, 320, 352, 384, 416, 448, 480, 512, 576, 640, 704, 768, 896, 1024, 1152, 1280,
	1408, 1536, 1792, 2048, 2304, 2688, 3072, 3200, 3456, 4096, 4864, 5376, 6144,
	6528, 6784, 6912, 8192, 9472, 9728, 10240, 10880, 12288, 13568, 14336, 16384, 18432,
	19072, 20480, 21760, 24576, 27264, 28672, 32768,
}

const (
	pageSize = 8 << 10 // of memory

	// The class of a size is found by the size in units of 8 up to 1 KiB, and in
	// units of 128 from there.
	fine, fineUnit = 1 << 10, 8
	coarseUnit     = 128
	largest        = 32 << 10
)

var classOf = func() (by struct {
	fine   [fine/fineUnit + 1]uint16
	coarse [largest/coarseUnit + 1]uint16
}) {
	class := 0
	for i := range by.fine {
		for int(classes[class]) < i*fineUnit {
			class++
		}
		by.fine[i] = classes[class]
	}
	class = 0
	for i := range by.coarse {
		for int(classes[class]) < i*coarseUnit {
			class++
		}
		by.coarse[i] = classes[class]
	}
	return by
}()

// allocated is what the allocator takes for n bytes.
func allocated(n int) int {
	switch {
	case n <= fine:
		return int(classOf.fine[(n+fineUnit-1)/fineUnit])
	case n <= largest:
		return int(classOf.coarse[(n+coarseUnit-1)/coarseUnit])
	}
	return (n + pageSize - 1) / pageSize * pageSize
}
