package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// netSizes are how many there are of all in the workloads of the subcommand net.
type netSizes struct {
	callers   []int // over TCP
	unix      int   // of those, over a unix socket as well
	ofValues  []int // of large values
	idle      int   // connections
	getters   int   // callers whose allocations are counted
	gets      int   // of them
	restAfter time.Duration
}

var (
	netSizesOfRun = netSizes{
		callers: []int{1, 128, 1024}, unix: 128, ofValues: []int{4, 16},
		idle: 5000, getters: 128, gets: 1_000_000, restAfter: time.Second,
	}
	netSizesOfShort = netSizes{
		callers: []int{1, 16}, unix: 16, ofValues: []int{4},
		idle: 50, getters: 16, gets: 2000, restAfter: 50 * time.Millisecond,
	}
)

// What stands in the middle of the names of cells.
const (
	localNet      = "local"
	unixNet       = "local-unix"
	replicatedNet = "replicated"
	valuesNet     = "values"
)

// netOps are the workloads by what they are called in names of cells.
var netOps = []struct{ name, workload string }{{"set", "write"}, {"get", "read"}}

func netName(where, op string, callers int) string {
	return fmt.Sprintf("net/%s/%s/%d", where, op, callers)
}

func idleName(connections int) string { return fmt.Sprintf("net/idle/%d", connections) }
func getsName(callers int) string     { return netName("allocs", "get", callers) }

// netCell is a cell of clients.
type netCell struct {
	name string
	cell
}

// netServer is where clients connect to.
type netServer struct {
	pid     int
	process *process // nil if it is another program
	end     func()
}

// serve starts servers in one process and waits until they are ready.
func (t *clusterTurn) serve(configs ...memberConfig) (*netServer, error) {
	if t.system.serve != nil {
		return t.system.serve(t.ctx, configs[0])
	}
	p, err := t.ready(configs...)
	if err != nil {
		return nil, err
	}
	return &netServer{pid: p.cmd.Process.Pid, process: p, end: p.end}, nil
}

// netRows are all of it. Servers are in one process and clients in another, but
// where allocations are counted.
func (s *clusterSettings) netRows() []row {
	return []row{s.localCells(), s.replicatedCells(), s.valueCells(), s.idleConnections(), s.countedAllocs()}
}

// localCells are callers of a server that has the data in memory alone.
func (s *clusterSettings) localCells() row {
	const tcp, unix = 0, 1 // the clients
	var cells []netCell
	for _, callers := range s.net.callers {
		for _, op := range netOps {
			c := cell{Workload: op.workload, Via: tcp, Callers: callers, Data: data{Keys: s.keys, Size: valueSize}, Time: s.time}
			cells = append(cells, netCell{netName(localNet, op.name, callers), c})
			if callers == s.net.unix { // side by side
				c.Via = unix
				cells = append(cells, netCell{netName(unixNet, op.name, callers), c})
			}
		}
	}
	return s.netRow(cells, (*clusterTurn).serveLocally, []*system{dkvSystem, redisSystem}, netBaseline)
}

// replicatedCells are callers of three members, whose endpoints they all know.
func (s *clusterSettings) replicatedCells() row {
	var cells []netCell
	for _, callers := range s.net.callers {
		for _, op := range netOps {
			cells = append(cells, netCell{netName(replicatedNet, op.name, callers), cell{
				Workload: op.workload, Callers: callers, Data: data{Keys: s.keys, Size: valueSize}, Time: s.time,
			}})
		}
	}
	serve := func(t *clusterTurn) (*netServer, []memberConfig, error) {
		configs, err := t.configs()
		if err != nil {
			return nil, nil, err
		}
		var client memberConfig
		for i, c := range configs {
			endpoint := "tcp://" + c.Client[c.Node]
			configs[i].Listen = []string{endpoint}
			client.Connect = append(client.Connect, endpoint)
		}
		server, err := t.serve(configs...)
		return server, []memberConfig{client}, err
	}
	return s.netRow(cells, serve, []*system{dkvSystem, etcdSystem, natsSystem}, clusterBaseline)
}

// valueCells are callers of such a server as of localCells with large values.
func (s *clusterSettings) valueCells() row {
	var cells []netCell
	for _, callers := range s.net.ofValues {
		for _, op := range netOps {
			cells = append(cells, netCell{netName(valuesNet, op.name, callers), cell{
				Workload: op.workload, Callers: callers, Time: s.time,
				Data: data{First: largeFirst, Keys: largeKeys, Size: largeSize},
			}})
		}
	}
	return s.netRow(cells, (*clusterTurn).serveLocally, []*system{dkvSystem, redisSystem}, netBaseline)
}

// serveLocally starts a server that has the data in memory alone, over TCP and over a
// unix socket, with a client for each.
func (t *clusterTurn) serveLocally() (*netServer, []memberConfig, error) {
	endpoints, err := t.endpoints()
	if err != nil {
		return nil, nil, err
	}
	server, err := t.serve(memberConfig{Listen: endpoints})
	return server, []memberConfig{{Connect: endpoints[:1]}, {Connect: endpoints[1:]}}, err
}

// endpoints are one over TCP and one that is a unix socket.
func (t *clusterTurn) endpoints() ([]string, error) {
	free, err := freeAddresses(1)
	if err != nil {
		return nil, err
	}
	return []string{"tcp://" + free[0], "unix://" + filepath.Join(t.dir, "sock")}, nil
}

// netRow is cells of the clients that serve returns with the server; the first of
// them sets the keys.
func (s *clusterSettings) netRow(cells []netCell, serve func(*clusterTurn) (*netServer, []memberConfig, error), systems []*system, base string) row {
	r := row{systems: systems, base: base}
	for _, c := range cells {
		r.workloads = append(r.workloads, c.name)
	}
	r.run = func(t *clusterTurn) error {
		server, clients, err := serve(t)
		if err != nil {
			return err
		}
		defer server.end()
		p, err := t.ready(clients...)
		if err != nil {
			return err
		}
		defer p.end()
		if _, err := p.call(request{Op: "fill", Data: &cells[0].Data}); err != nil {
			return err
		}
		for _, c := range cells {
			if !t.wants(c.name) {
				continue
			}
			c.Servers = []int{server.pid}
			a, err := p.call(request{Op: "cell", Cell: &c.cell})
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			m := a.Outcome.Metrics
			delete(m, allocsPerOp) // those of the clients alone
			if mb, ok := m[mbPerSec]; ok {
				delete(m, mbPerSec)
				m[gbPerSec] = mb / 1000
			}
			t.record(c.name, a.Outcome)
		}
		return nil
	}
	return r
}

// The metrics of a connection that nobody uses.
const (
	rssPerConnection    = "RSS KiB each"
	atRestPerConnection = "RSS KiB each without garbage" // which other programs have none of
	connectionsOpen     = "connections"
)

// idleConnections are what the process of the server has grown by when many have
// connected and had one answer each, by the sockets that it has more.
func (s *clusterSettings) idleConnections() row {
	name := idleName(s.net.idle)
	run := func(t *clusterTurn) error {
		if err := moreFiles(2*t.net.idle + 1000); err != nil {
			fmt.Fprintf(t.log, "%s of %v: %v\n", name, t.system, err)
			t.record(name, outcome{})
			return nil
		}
		endpoints, err := t.endpoints()
		if err != nil {
			return err
		}
		server, err := t.serve(memberConfig{Listen: endpoints})
		if err != nil {
			return err
		}
		defer server.end()
		p, err := startProcess(t.ctx, t.system)
		if err != nil {
			return err
		}
		defer p.end()

		if server.process != nil {
			if _, err := server.process.call(request{Op: "memory"}); err != nil { // without garbage
				return err
			}
		}
		empty, sockets := residentOf(server.pid), socketsOf(server.pid)
		all := request{Op: "idlers", System: t.system.name, Count: t.net.idle, Members: []memberConfig{{Connect: endpoints[:1]}}}
		if _, err := p.call(all); err != nil {
			return err
		}
		time.Sleep(t.net.restAfter)
		n := socketsOf(server.pid) - sockets
		if n < t.net.idle {
			return fmt.Errorf("%s: the server has %d connections", name, n)
		}
		each := func(resident int) float64 { return float64(resident-empty) / 1024 / float64(n) }
		m := metrics{rssPerConnection: each(residentOf(server.pid)), connectionsOpen: float64(n)}
		if server.process != nil {
			if _, err := server.process.call(request{Op: "memory"}); err != nil {
				return err
			}
			m[atRestPerConnection] = each(residentOf(server.pid))
		}
		t.record(name, outcome{Metrics: m})
		return nil
	}
	return row{workloads: []string{name}, run: run, systems: []*system{dkvSystem, redisSystem}, base: netBaseline}
}

// countedAllocs are the allocations of a server and a client together, which share a
// process for that.
func (s *clusterSettings) countedAllocs() row {
	name := getsName(s.net.getters)
	run := func(t *clusterTurn) error {
		endpoints, err := t.endpoints()
		if err != nil {
			return err
		}
		p, err := t.ready(memberConfig{Listen: endpoints[:1]}, memberConfig{Connect: endpoints[:1]})
		if err != nil {
			return err
		}
		defer p.end()
		const client = 1
		d := data{Keys: t.keys, Size: valueSize}
		if _, err := p.call(request{Op: "fill", Via: client, Data: &d}); err != nil {
			return err
		}
		return t.ask(p, name, request{Op: "gets", Via: client, Count: t.net.gets, Cell: &cell{Callers: t.net.getters, Data: d}})
	}
	// Three rounds at most, for they take long and are much the same.
	return row{workloads: []string{name}, rounds: 3, run: run, systems: []*system{dkvSystem}, base: netBaseline}
}

// moreFiles lets this process and those it starts have n files open.
func moreFiles(n int) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	if want := uint64(n); l.Cur < want {
		l.Cur, l.Max = want, max(l.Max, want)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
			return fmt.Errorf("%d open files: %w", n, err)
		}
	}
	return nil
}

// withoutRedis leaves redis out if its server is not there.
func (s *clusterSettings) withoutRedis() {
	i := slices.Index(s.systems, redisSystem)
	if i < 0 || redisVersion() != "" {
		return
	}
	s.systems = slices.Delete(slices.Clone(s.systems), i, i+1)
	s.absent = append(s.absent, fmt.Sprintf("%v: left out, for %s is not in PATH", redisSystem, redisProgram))
}
