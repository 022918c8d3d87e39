package maple

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// order knows the keys of a table in the order of their bytes. It is touched only
// when a key comes or goes: overwriting does not change it.
//
// It is a tree of three levels. A page covers a range of keys and has the places,
// in no order, of those that are in the table; who wants them in order looks the
// records up and sorts them, which a reader has to do anyway to get at the
// values. So a key costs no more than the five bytes of its place, whatever its
// length, and coming and going no more than finding the page. Above the pages are
// groups of them, and one root of groups: both are replaced when pages are split
// or merged, never changed, so that the way to a page takes no lock.
//
// In a B-tree with the keys themselves, which would be there twice then, a new one
// among a million took 1.4 µs.
type order struct {
	table *table

	// Lock order: a shard of the table, mu, a page, a page to its right.
	mu   sync.Mutex // held while pages are split or merged
	root atomic.Pointer[orderRoot]
}

// orderRoot and orderGroup: lows[i] is the least key that belongs in child i; that
// of the first child of a group is the group's, that of the first group is "".
type orderRoot struct {
	lows   []string
	groups []*orderGroup
}

type orderGroup struct {
	lows  []string
	pages []*orderPage
}

const (
	perPage  = 64
	perGroup = 64

	// A page or group that is emptier than one in four is merged with its
	// neighbour, if together they are not fuller than one in two.
	sparse, roomy = 4, 2
)

// orderPage has the places of keys.
type orderPage struct {
	mu    sync.Mutex
	dead  bool // others have taken its place in the tree
	n     uint8
	shard [perPage]uint8
	hash  [perPage]uint32
}

func newOrder(t *table) *order {
	o := &order{table: t}
	o.root.Store(&orderRoot{
		lows:   []string{""},
		groups: []*orderGroup{{lows: []string{""}, pages: []*orderPage{new(orderPage)}}},
	})
	return o
}

// spot is a page and the way to it.
type spot struct {
	root        *orderRoot
	group, page int
}

// indexOf is the child in which key belongs: the last whose low is no greater.
func indexOf(lows []string, key string) int {
	i, j := 1, len(lows)
	for i < j {
		if m := (i + j) / 2; lows[m] <= key {
			i = m + 1
		} else {
			j = m
		}
	}
	return i - 1
}

// indexBefore is the child in which the keys just below key belong: the last whose
// low is less, or the very last if key is empty.
func indexBefore(lows []string, key string) int {
	if key == "" {
		return len(lows) - 1
	}
	i, _ := slices.BinarySearch(lows[1:], key)
	return i
}

// find returns the spot where key belongs.
func (o *order) find(key string) spot {
	s := spot{root: o.root.Load()}
	s.group = indexOf(s.root.lows, key)
	s.page = indexOf(s.root.groups[s.group].lows, key)
	return s
}

func (s spot) at() *orderPage { return s.root.groups[s.group].pages[s.page] }

// low is the least key that belongs in the page.
func (s spot) low() string { return s.root.groups[s.group].lows[s.page] }

// high is the least key that belongs behind the page, "" if none does.
func (s spot) high() string {
	if g := s.root.groups[s.group]; s.page+1 < len(g.lows) {
		return g.lows[s.page+1]
	}
	if s.group+1 < len(s.root.lows) {
		return s.root.lows[s.group+1]
	}
	return ""
}

// lock returns the page where key belongs, locked.
func (o *order) lock(key string) *orderPage {
	for {
		p := o.find(key).at()
		p.mu.Lock()
		if !p.dead {
			return p
		}
		p.mu.Unlock()
	}
}

// insert adds the place of a key that has come. The key's shard is locked, and
// its record in the table.
func (o *order) insert(key string, at place) {
	for {
		p := o.lock(key)
		if p.n < perPage {
			p.add(at)
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		o.split(key)
	}
}

// remove removes the place of a key that goes. The key's shard is locked, and its
// record still in the table.
func (o *order) remove(key string, at place) {
	p := o.lock(key)
	for i := range p.n {
		if p.hash[i] == at.hash && p.shard[i] == at.shard {
			p.n--
			p.hash[i], p.shard[i] = p.hash[p.n], p.shard[p.n]
			break
		}
	}
	isSparse := int(p.n) < perPage/sparse
	p.mu.Unlock()
	if isSparse {
		o.merge(key)
	}
}

func (p *orderPage) add(at place) {
	p.hash[p.n], p.shard[p.n] = at.hash, at.shard
	p.n++
}

// places appends the places that the page has.
func (p *orderPage) places(to []place) []place {
	for i := range p.n {
		to = append(to, place{p.hash[i], p.shard[i]})
	}
	return to
}

// keyed is a place with the key that it is of.
type keyed struct {
	key string
	place
}

// split makes two pages of the one where key belongs, unless it has room by now.
// Key itself is not in it yet.
func (o *order) split(key string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.find(key)
	old := s.at()
	old.mu.Lock()
	defer old.mu.Unlock()
	if old.n < perPage {
		return
	}
	var places [perPage]place
	var room [perPage]keyed
	all := room[:0]
	for _, at := range old.places(places[:0]) {
		all = append(all, keyed{o.table.at(at).key(), at})
	}
	slices.SortFunc(all, func(a, b keyed) int { return cmp.Compare(a.key, b.key) })

	// Keys that come in their order, or against it, leave full pages behind.
	middle := len(all) / 2
	right := key // the least key of the right page
	switch {
	case key > all[len(all)-1].key:
		middle = len(all)
	case key < all[0].key:
		middle = 0
		right = all[0].key
	default:
		right = all[middle].key
	}
	left := key
	if middle > 0 {
		left = all[middle-1].key
	}
	pages := [2]*orderPage{new(orderPage), new(orderPage)}
	for i, k := range all {
		if i < middle {
			pages[0].add(k.place)
		} else {
			pages[1].add(k.place)
		}
	}
	old.dead = true
	o.replace(s, 1, []string{s.low(), between(left, right)}, pages[:])
}

// between returns a short string above left and not above right.
func between(left, right string) string {
	n := 0
	for n < len(left) && left[n] == right[n] {
		n++
	}
	return strings.Clone(right[:n+1])
}

// merge merges the page where key belongs with a neighbour in its group, if one is
// sparse enough.
func (o *order) merge(key string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.find(key)
	here := s.page
	if s.page = here - 1; s.page >= 0 && o.mergeRight(s) {
		return
	}
	if s.page = here; s.page+1 < len(s.root.groups[s.group].pages) {
		o.mergeRight(s)
	}
}

// mergeRight merges the page at a spot with the one to its right, and tells
// whether together they were sparse enough.
func (o *order) mergeRight(s spot) bool {
	g := s.root.groups[s.group]
	left, right := g.pages[s.page], g.pages[s.page+1]
	left.mu.Lock()
	defer left.mu.Unlock()
	right.mu.Lock()
	defer right.mu.Unlock()
	if int(left.n)+int(right.n) > perPage/roomy {
		return false
	}
	p := new(orderPage)
	var places [perPage]place
	for _, at := range right.places(left.places(places[:0])) {
		p.add(at)
	}
	left.dead, right.dead = true, true
	o.replace(s, 2, []string{s.low()}, []*orderPage{p})
	return true
}

// replace puts pages in the place of n from a spot on, in a new group and a new
// root. o.mu is held, and the old pages are locked.
func (o *order) replace(s spot, n int, lows []string, pages []*orderPage) {
	old := s.root.groups[s.group]
	g := &orderGroup{
		lows:  slices.Concat(old.lows[:s.page], lows, old.lows[s.page+n:]),
		pages: slices.Concat(old.pages[:s.page], pages, old.pages[s.page+n:]),
	}
	groups := []*orderGroup{g}
	from, to := s.group, s.group+1
	switch {
	case len(g.pages) > perGroup:
		m := len(g.pages) / 2
		if s.page >= len(g.pages)-2 {
			m = len(g.pages) - 2 // keys come in their order: leave a full group behind
		}
		groups = []*orderGroup{
			{lows: slices.Clone(g.lows[:m]), pages: slices.Clone(g.pages[:m])},
			{lows: slices.Clone(g.lows[m:]), pages: slices.Clone(g.pages[m:])},
		}
	case len(g.pages) < perGroup/sparse:
		join := func(a, b *orderGroup) bool {
			if len(a.pages)+len(b.pages) > perGroup/roomy {
				return false
			}
			groups = []*orderGroup{{lows: slices.Concat(a.lows, b.lows), pages: slices.Concat(a.pages, b.pages)}}
			return true
		}
		if from > 0 && join(s.root.groups[from-1], g) {
			from--
		} else if to < len(s.root.groups) && join(g, s.root.groups[to]) {
			to++
		}
	}
	var groupLows []string
	for _, g := range groups {
		groupLows = append(groupLows, g.lows[0])
	}
	o.root.Store(&orderRoot{
		lows:   slices.Concat(s.root.lows[:from], groupLows, s.root.lows[to:]),
		groups: slices.Concat(s.root.groups[:from], groups, s.root.groups[to:]),
	})
}

// read appends the places of the page where key belongs, or, with before, where
// the keys just below it do; an empty key is then beyond all. The page covers the
// keys from low up to high, which is "" if there is no end.
func (o *order) read(key string, before bool, to []place) (places []place, low, high string) {
	for {
		s := o.find(key)
		if before {
			s = o.findBefore(key)
		}
		p := s.at()
		p.mu.Lock()
		if p.dead {
			p.mu.Unlock()
			continue
		}
		to = p.places(to)
		p.mu.Unlock()
		return to, s.low(), s.high()
	}
}

// findBefore returns the spot where the keys just below key belong. key is not
// the least key there is.
func (o *order) findBefore(key string) spot {
	s := spot{root: o.root.Load()}
	s.group = indexBefore(s.root.lows, key)
	s.page = indexBefore(s.root.groups[s.group].lows, key)
	return s
}

// orderBuilder makes an order of keys that come in their order.
type orderBuilder struct {
	root orderRoot
	last string // the key that came last
}

// add adds a key, which is greater than those before. The key's memory is not
// kept, but for the last one's.
func (b *orderBuilder) add(key string, at place) {
	const fill = perPage * 7 / 8 // so that the next keys do not split each page
	var p *orderPage
	if n := len(b.root.groups); n > 0 {
		g := b.root.groups[n-1]
		p = g.pages[len(g.pages)-1]
	}
	if p == nil || p.n >= fill {
		low := ""
		if p != nil {
			low = between(b.last, key)
		}
		p = new(orderPage)
		b.page(low, p)
	}
	p.add(at)
	b.last = key
}

func (b *orderBuilder) page(low string, p *orderPage) {
	const fill = perGroup * 3 / 4
	n := len(b.root.groups)
	if n == 0 || len(b.root.groups[n-1].pages) == fill {
		b.root.groups = append(b.root.groups, new(orderGroup))
		b.root.lows = append(b.root.lows, low)
		n++
	}
	g := b.root.groups[n-1]
	g.lows = append(g.lows, low)
	g.pages = append(g.pages, p)
}

// finish has o be of the keys that were added.
func (b *orderBuilder) finish(o *order) {
	if len(b.root.groups) > 0 {
		o.root.Store(&b.root)
	}
}
