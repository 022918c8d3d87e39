package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"dkv/store"
)

// txnMemberChecks are about transactions of several callers at one time, on
// several members where there are some.
var txnMemberChecks = []check{
	{"TransactionThatHasReturnedIsSeenWholeByEveryMember", func(s *session) {
		for i := range s.stores {
			for j := range s.stores {
				w, r := s.on(i), s.on(j)
				a, b, c := s.key("a%d-%d", i, j), s.key("b%d-%d", i, j), s.key("c%d-%d", i, j)
				for n := range int64(10) {
					value := fmt.Sprint(n)
					w.set(c, "old")
					res := w.txn(store.Txn{Then: []store.Op{store.OpSet(a, []byte(value)), store.OpAdd(b, 1), store.OpDelete(c)}})
					if v, ok := r.get(a); !ok || string(v) != value {
						s.Fatalf("a transaction on member %d sets %s to %s, then member %d finds %s, %v", i, show(a), value, j, show(string(v)), ok)
					}
					if e, ok := r.entry(b); !ok || e.Revision != res.Results[1].Revision || string(e.Value) != fmt.Sprint(n+1) {
						s.Fatalf("a transaction on member %d adds to %s, then member %d finds %s, %v", i, show(b), j, showEntry(e), ok)
					}
					if r.has(c) {
						s.Fatalf("a transaction on member %d deletes %s, then member %d has it", i, show(c), j)
					}
					if res := r.txn(store.Txn{If: []store.Cond{store.IfValue(a, []byte(value)), store.IfMissing(c)}, Then: []store.Op{store.OpGet(b)}}); !res.Held {
						s.Fatalf("a transaction on member %d finds other than what one on member %d has done", j, i)
					}
				}
			}
		}
	}},
	{"TransfersBetweenAccountsNeverChangeTheSum", func(s *session) {
		accounts := s.accounts("1000")
		s.whileWriting(6, func(i, n int) error {
			from, to := accounts[(i+n)%len(accounts)], accounts[(i+3*n+1)%len(accounts)]
			if from == to {
				return nil
			}
			amount := int64(1 + n%7)
			if _, err := s.next().Txn(s.ctx, store.Txn{Then: []store.Op{store.OpAdd(from, -amount), store.OpAdd(to, amount)}}); err != nil {
				return err
			}
			_, err := s.balances(accounts)
			return err
		}, func(all []store.Entry) error { return balancedEntries(accounts, all) })
		_, err := s.balances(accounts)
		s.must(err)
	}},
	{"TransfersByRevisionNeverChangeTheSum", func(s *session) {
		// The writers reckon for themselves, so that a condition that holds when it
		// should not makes one lose what another has moved.
		accounts := s.accounts("1000")
		s.whileWriting(6, func(i, n int) error {
			results, err := s.balances(accounts)
			if err != nil {
				return err
			}
			from := (i + n) % len(accounts)
			to := (from + 1 + n%(len(accounts)-1)) % len(accounts)
			t := store.Txn{}
			for j, change := range map[int]int{from: -3, to: 3} {
				balance, _ := strconv.Atoi(string(results[j].Value))
				t.If = append(t.If, store.IfRevision(accounts[j], results[j].Revision))
				t.Then = append(t.Then, store.OpSet(accounts[j], strconv.AppendInt(nil, int64(balance+change), 10)))
			}
			_, err = s.next().Txn(s.ctx, t)
			return err
		}, func(all []store.Entry) error { return balancedEntries(accounts, all) })
		_, err := s.balances(accounts)
		s.must(err)
	}},
	{"AmongManyTransactionsOfOneConditionExactlyOneHolds", func(s *session) {
		const rounds, callers = 20, 12
		for round := range rounds {
			place, log := s.key("place-%d", round), s.key("log-%d", round)
			held := make([]bool, callers)
			start := make(chan struct{})
			time.AfterFunc(time.Millisecond, func() { close(start) })
			s.together(callers, func(i int) error {
				name := fmt.Append(nil, i)
				t := store.Txn{
					If:   []store.Cond{store.IfMissing(place)},
					Then: []store.Op{store.OpAdd(log, 1), store.OpSet(place, name)},
					Else: []store.Op{store.OpGet(place), store.OpGet(log)},
				}
				<-start
				res, err := s.stores[i%len(s.stores)].Txn(s.ctx, t)
				if err == nil {
					err = checkTxn(t, res)
				}
				if held[i] = res.Held; err == nil && !held[i] && (!res.Results[0].Done || string(res.Results[1].Value) != "1") {
					err = fmt.Errorf("the condition of Txn(%s) does not hold, and it reads %+v", showTxn(t), res.Results)
				}
				return err
			})
			winner := slices.Index(held, true)
			if winner < 0 || slices.Contains(held[winner+1:], true) {
				s.Fatalf("the same condition of %d callers, each of whom ends it, held: %v; want one", callers, held)
			}
			s.live(place, fmt.Sprint(winner))
			s.live(log, "1")
		}
	}},
}

// accounts are keys with a balance each.
func (s *session) accounts(balance string) []string {
	s.Helper()
	keys := s.numbered(5)
	s.forEach(keys, func(key string) error { return s.next().Set(s.ctx, key, []byte(balance)) })
	return keys
}

// balances reads all accounts in one transaction and returns an error if
// anything is missing from their sum.
func (s *session) balances(accounts []string) ([]store.OpResult, error) {
	t := store.Txn{}
	for _, key := range accounts {
		t.Then = append(t.Then, store.OpGet(key))
	}
	res, err := s.next().Txn(s.ctx, t)
	if err == nil {
		err = checkTxn(t, res)
	}
	if err != nil {
		return nil, err
	}
	values := make([]string, len(accounts))
	for i, r := range res.Results {
		values[i] = string(r.Value)
	}
	return res.Results, balanced(accounts, values)
}

func balanced(accounts, values []string) error {
	sum := 0
	for _, v := range values {
		n, err := strconv.Atoi(v)
		if err != nil {
			return errors.Join(fmt.Errorf("an account has no balance but %s", show(v)), err)
		}
		sum += n
	}
	if len(values) != len(accounts) || sum != 1000*len(accounts) {
		return fmt.Errorf("the accounts have %s, %d together; want %d", strings.Join(values, ", "), sum, 1000*len(accounts))
	}
	return nil
}

// balancedEntries is balanced for what a scan has found.
func balancedEntries(accounts []string, all []store.Entry) error {
	values := make([]string, len(all))
	for i, e := range all {
		values[i] = string(e.Value)
	}
	return balanced(accounts, values)
}
