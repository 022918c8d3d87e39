package transport

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"dkv/store"
)

// Codec is how the bodies of frames are written. The hello, which names the codec, is
// written alike for all.
//
// The server carries out requests as Binary has them, and makes its responses so; the
// other codecs are translations of that, from and to the structs [requestMessage] and
// [responseMessage], which also say what means what.
type Codec byte

const (
	// Binary is the protocol's own codec. It is the smallest and by far the fastest.
	Binary Codec = iota

	// JSON has each body be one object, for programs in other languages and for who
	// reads what is sent. Bytes (keys, values, owners) are base64, durations are
	// nanoseconds, and numbers of 64 bits are plain numbers, so whoever reads them
	// must not take them for floating-point ones. What is left out is zero or empty;
	// what is not known is refused.
	JSON

	// Gob has each body be one value of package encoding/gob, its types before it.
	// That package is not made for input from strangers, so a server takes Gob
	// only if [ServerOptions.Codecs] says so.
	Gob

	codecs
)

var codecNames = names{Binary: "binary", JSON: "json", Gob: "gob"}

func (c Codec) String() string {
	if c < codecs {
		return codecNames[c]
	}
	return fmt.Sprintf("codec %d", byte(c))
}

// ParseCodec returns the codec that has a name: "binary", "json" or "gob". Errors wrap
// store.ErrBadOptions.
func ParseCodec(name string) (Codec, error) {
	if i := slices.Index(codecNames, name); i >= 0 {
		return Codec(i), nil
	}
	return 0, fmt.Errorf("%w: codec %q is not known; %s are", store.ErrBadOptions, name, strings.Join(codecNames, ", "))
}

// check returns the error of a codec that there is none of.
func (c Codec) check() error {
	if c < codecs {
		return nil
	}
	return fmt.Errorf("%w: %v is not known", store.ErrBadOptions, c)
}

// names are what something is called, by its number. A number without a name has "".
type names []string

// number returns the number of a name.
func (n names) number(name string) (int, error) {
	if i := slices.Index(n, name); i >= 0 && name != "" {
		return i, nil
	}
	return 0, fmt.Errorf("%w: %.100q is not known", errProtocol, name)
}

// transcoder turns requests and responses into the bodies of another codec than Binary,
// and back.
type transcoder struct {
	codec     Codec
	limit     int // of a body
	marshal   func(v any) ([]byte, error)
	unmarshal func(b []byte, v any) error
}

// The limits of bodies leave room for every body that Binary has room for.
const (
	maxJSON = 2 * maxFrame                          // base64 takes 4 bytes for 3, and a part of a transaction some 200
	maxGob  = maxFrame + store.MaxTxnOps*64 + 8<<10 // names and lengths of parts, and types
)

var transcoders = [codecs]*transcoder{
	JSON: {JSON, maxJSON, json.Marshal, unmarshalJSON},
	Gob:  {Gob, maxGob, marshalGob, unmarshalGob},
}

// transcoder is nil for Binary.
func (c Codec) transcoder() *transcoder { return transcoders[c] }

// frameLimit is how large a body may be; nil is for Binary.
func (t *transcoder) frameLimit() int {
	if t == nil {
		return maxFrame
	}
	return t.limit
}

// request writes a request.
func (t *transcoder) request(r request) ([]byte, error) {
	m, err := newRequestMessage(r)
	if err != nil {
		return nil, err
	}
	return t.write(m)
}

func (t *transcoder) parseRequest(b []byte) (request, error) {
	var m requestMessage
	if err := t.unmarshal(b, &m); err != nil {
		return request{}, err
	}
	r, err := m.request()
	if err != nil || len(r.arg) > maxArgument {
		return request{}, errProtocol
	}
	return r, nil
}

// response writes a response or, if it cannot be written, one that says so.
func (t *transcoder) response(r response) []byte {
	m, err := newResponseMessage(r)
	if err == nil {
		var b []byte
		if b, err = t.write(m); err == nil {
			return b
		}
	}
	err = fmt.Errorf("the response cannot be written as %v: %w", t.codec, err)
	m, _ = newResponseMessage(failure(r.id, err))
	b, _ := t.write(m)
	return b
}

// parseResponse reads a response. waits returns the method of the request with an id,
// 0 if nobody waits for the response; that has no result then.
func (t *transcoder) parseResponse(b []byte, waits func(id uint64) method) (response, error) {
	var m responseMessage
	if err := t.unmarshal(b, &m); err != nil {
		return response{}, err
	}
	r := response{id: m.ID, code: m.Code}
	if m.ID != 0 {
		if r.method = waits(m.ID); r.method == 0 {
			return r, nil
		}
	}
	var err error
	r.result, err = m.result(r.method)
	if err != nil || len(r.result) > maxArgument {
		return response{}, errProtocol
	}
	return r, nil
}

func (t *transcoder) write(m any) ([]byte, error) {
	b, err := t.marshal(m)
	if err == nil && len(b) > t.limit {
		err = fmt.Errorf("%d bytes, %d are allowed", len(b), t.limit)
	}
	return b, err
}

// maxArgument bounds what follows the numbers that a binary body begins with.
const maxArgument = maxFrame - 2*binary.MaxVarintLen64 - 1

func unmarshalJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errProtocol // there is something behind it
	}
	return nil
}
