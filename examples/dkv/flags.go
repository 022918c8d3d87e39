package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"dkv/transport"

	"github.com/spf13/pflag"
)

// seconds is a duration as a flag, "10" or "10s".
type seconds time.Duration

func (s *seconds) Set(text string) error {
	d, err := parseSeconds(text)
	if err == nil {
		*s = seconds(d)
	}
	return err
}

func (s seconds) String() string { return time.Duration(s).String() }
func (seconds) Type() string     { return "seconds" }

func secondsVar(flags *pflag.FlagSet, s *seconds, name string, value time.Duration, usage string) {
	*s = seconds(value)
	flags.Var(s, name, usage)
}

var errSeconds = errors.New("want seconds, as 10, or a duration with a unit, as 1m30s")

// parseSeconds reads a number of seconds, or a duration as package time has it.
func parseSeconds(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if n, fault := strconv.ParseFloat(text, 64); fault == nil {
		n *= float64(time.Second)
		if math.IsNaN(n) || math.Abs(n) >= math.MaxInt64 {
			return 0, errSeconds
		}
		d, err = time.Duration(n), nil
	}
	switch {
	case err != nil:
		return 0, errSeconds
	case d < 0:
		return 0, errors.New("it must not be negative")
	}
	return d, nil
}

// parseMembers reads name=host:port of each member.
func parseMembers(list string) (map[string]string, error) {
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	members := make(map[string]string)
	for item := range strings.SplitSeq(list, ",") {
		name, addr, ok := strings.Cut(strings.TrimSpace(item), "=")
		switch {
		case !ok || name == "" || addr == "":
			return nil, fmt.Errorf("%q is not name=host:port", item)
		case members[name] != "":
			return nil, fmt.Errorf("%q is named twice", name)
		}
		members[name] = addr
	}
	return members, nil
}

// clientEndpoint completes an endpoint: host:port is one of tcp, /path of unix.
func clientEndpoint(endpoint string) (string, error) {
	endpoint = strings.TrimSpace(endpoint)
	switch {
	case strings.Contains(endpoint, "://"):
	case strings.HasPrefix(endpoint, "/"):
		endpoint = "unix://" + endpoint
	default:
		endpoint = "tcp://" + endpoint
	}
	if port, ok := strings.CutPrefix(endpoint, "tcp://:"); ok {
		endpoint = "tcp://localhost:" + port
	}
	return endpoint, transport.CheckEndpoint(endpoint)
}

// serverEndpoint completes an endpoint to listen on: one without a scheme is of the
// usual transport, and one without a host is of the loopback interface, unless it is
// meant for everybody.
func serverEndpoint(usual, endpoint string, everybody bool) (string, error) {
	endpoint = strings.TrimSpace(endpoint)
	scheme, address, ok := strings.Cut(endpoint, "://")
	if !ok {
		scheme, address = usual, endpoint
	}
	if scheme != "unix" && !everybody && strings.HasPrefix(address, ":") {
		address = "127.0.0.1" + address
	}
	endpoint = scheme + "://" + address
	return endpoint, transport.CheckEndpoint(endpoint)
}

// deadlines are the flags of when a value ends and when its key does.
type deadlines struct{ expireIn, deleteIn seconds }

func (d *deadlines) register(flags *pflag.FlagSet) {
	secondsVar(flags, &d.expireIn, "expire-in", 0, "when the value goes and the key stays, as 10 or 10s; 0 for never")
	secondsVar(flags, &d.deleteIn, "delete-in", 0, "when the key goes, as 10 or 10s; 0 for never")
}

func (d *deadlines) expire() time.Duration { return time.Duration(d.expireIn) }
func (d *deadlines) delete() time.Duration { return time.Duration(d.deleteIn) }
