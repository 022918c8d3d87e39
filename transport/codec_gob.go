package transport

import (
	"bytes"
	"encoding/gob"
	"reflect"
	"sync"
)

func marshalGob(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

func unmarshalGob(b []byte, v any) error {
	if err := checkGob(b); err != nil {
		return err
	}
	r := bytes.NewReader(b)
	if err := gob.NewDecoder(r).Decode(v); err != nil {
		return err
	}
	if r.Len() > 0 {
		return errProtocol // there is something behind it
	}
	return nil
}

// maxGobTypes is more than the types of one body.
const maxGobTypes = 32

// checkGob looks at the types that a stream defines. They have to be those of messages,
// with no fields that those have not: gob would skip such a field, and take as much
// memory for types as they ask for.
func checkGob(b []byte) error {
	r := gobReader{b: b}
	types := 0
	for len(r.b) > 0 && !r.bad {
		m := gobReader{b: r.bytes()}
		if m.int() >= 0 {
			continue // a value
		}
		types++
		m.typ()
		if r.bad = r.bad || m.bad || types > maxGobTypes; r.bad {
			return errProtocol
		}
	}
	if r.bad {
		return errProtocol
	}
	return nil
}

// gobFields are the names of the fields of each struct that is part of a message, by the
// struct's name.
var gobFields = sync.OnceValue(func() map[string]map[string]bool {
	all := make(map[string]map[string]bool)
	var add func(t reflect.Type)
	add = func(t reflect.Type) {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return
		}
		fields := make(map[string]bool)
		for i := range t.NumField() {
			fields[t.Field(i).Name] = true
			add(t.Field(i).Type)
		}
		all[t.Name()] = fields
	}
	add(reflect.TypeFor[requestMessage]())
	add(reflect.TypeFor[responseMessage]())
	return all
})

// gobReader reads what gob has written. After something that is amiss it yields zeros.
type gobReader struct {
	b   []byte
	bad bool
}

// uint reads a number: one byte, or a byte that is less how many bytes follow.
func (r *gobReader) uint() (n uint64) {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	first := r.b[0]
	r.b = r.b[1:]
	if first < 1<<7 {
		return uint64(first)
	}
	size := -int(int8(first))
	if size > 8 || size > len(r.b) {
		r.b, r.bad = nil, true
		return 0
	}
	for _, c := range r.b[:size] {
		n = n<<8 | uint64(c)
	}
	r.b = r.b[size:]
	return n
}

// int reads a number with a sign, which is the lowest bit.
func (r *gobReader) int() int64 {
	n := r.uint()
	if n&1 != 0 {
		return ^int64(n >> 1)
	}
	return int64(n >> 1)
}

func (r *gobReader) bytes() []byte {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// is reads a number that has to be n.
func (r *gobReader) is(n uint64) { r.bad = r.uint() != n || r.bad }

// typ reads the definition of a type: that of a struct, or that of a list, which encodes
// itself. In a struct of gob's, each field has before it how far it is behind the last
// one, and 0 follows the last.
func (r *gobReader) typ() {
	const structT, gobEncoderT = 3, 5
	switch r.uint() {
	case structT:
		r.is(1)
		fields := gobFields()[r.name()]
		r.is(1)
		n := r.uint()
		if r.bad = r.bad || n > uint64(len(fields)); r.bad {
			return
		}
		for range n {
			if !fields[r.name()] {
				r.bad = true
				return
			}
		}
	case gobEncoderT:
		r.is(1)
		r.name()
	default:
		r.bad = true
	}
	r.is(0)
	r.is(0)
	r.bad = r.bad || len(r.b) > 0
}

// name reads a struct of a name and a number, which is that of a type.
func (r *gobReader) name() string {
	r.is(1)
	name := r.bytes()
	r.is(1)
	r.int()
	r.is(0)
	return string(name)
}
