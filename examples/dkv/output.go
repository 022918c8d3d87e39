package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"dkv"

	"github.com/spf13/cobra"
)

// fields are what a command tells, in the same words as text, "found=true, value=bar",
// and as JSON, {"found":true,"value":"bar"}.
type fields []field

type field struct {
	name   string
	value  any
	detail bool // is for JSON alone
}

// tell makes fields of names and values in turn.
func tell(namesAndValues ...any) fields {
	return fields(nil).and(false, namesAndValues)
}

// detail adds what is for JSON alone.
func (f fields) detail(namesAndValues ...any) fields { return f.and(true, namesAndValues) }

func (f fields) and(detail bool, namesAndValues []any) fields {
	for i := 0; i < len(namesAndValues); i += 2 {
		f = append(f, field{namesAndValues[i].(string), namesAndValues[i+1], detail})
	}
	return f
}

// deadlines adds the times left.
func (f fields) deadlines(expireIn, deleteIn time.Duration) fields {
	if expireIn > 0 {
		f = f.detail("expireIn", expireIn.String())
	}
	if deleteIn > 0 {
		f = f.detail("deleteIn", deleteIn.String())
	}
	return f
}

func (f fields) String() string {
	var parts []string
	for _, field := range f {
		if !field.detail {
			parts = append(parts, field.name+"="+plain(field.value))
		}
	}
	return strings.Join(parts, ", ")
}

func plain(value any) string {
	switch v := value.(type) {
	case []byte:
		return printable(string(v))
	case string:
		return printable(v)
	case []string:
		return strings.Join(v, " ")
	case map[string]uint64:
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, fmt.Sprint(name, ":", v[name]))
		}
		return strings.Join(parts, " ")
	}
	return fmt.Sprint(value)
}

// printable is s, or s in quotes if it would not look like what it is.
func printable(s string) string {
	for _, r := range s {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}

// MarshalJSON has bytes as a string, or, if they are not UTF-8, in base64 under a name
// that says so.
func (f fields) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, field := range f {
		name, value := field.name, field.value
		if raw, ok := value.([]byte); ok {
			value = string(raw)
		}
		if s, ok := value.(string); ok && !utf8.ValidString(s) {
			name, value = name+"Base64", base64.StdEncoding.EncodeToString([]byte(s))
		}
		if i > 0 {
			b.WriteByte(',')
		}
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", name, text)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// print writes one result as a line.
func (f fields) print(cmd *cobra.Command) error {
	if asJSON(cmd) {
		return printJSON(cmd.OutOrStdout(), f)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), f)
	return err
}

// printYes is print, and the error of a command whose answer is no if it is.
func (f fields) printYes(cmd *cobra.Command, yes bool) error {
	if err := f.print(cmd); err != nil || yes {
		return err
	}
	return errNo
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func asJSON(cmd *cobra.Command) bool {
	json, err := cmd.Flags().GetBool("json")
	return err == nil && json
}

// entryFields are an entry's, without the key.
func entryFields(e dkv.Entry, found bool) fields {
	if !found {
		return tell("found", false)
	}
	if e.Expired {
		return tell("found", false).detail("expired", true, "revision", e.Revision).deadlines(0, e.DeleteIn)
	}
	return tell("found", true, "value", e.Value).detail("revision", e.Revision).deadlines(e.ExpireIn, e.DeleteIn)
}
