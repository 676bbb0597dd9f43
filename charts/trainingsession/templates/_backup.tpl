{{/* Fails where the values do not say where backups go. */}}
{{- define "trainingsession.backup.check" -}}
{{- $backup := .Values.backup -}}
{{- if and $backup.s3.url $backup.persistence.existingClaim -}}
{{- fail "backup.s3.url and backup.persistence.existingClaim are both set; backups go to one of them, so remove the other" -}}
{{- end -}}
{{- if and (not $backup.s3.url) $backup.s3.secretName -}}
{{- fail "backup.s3.secretName is set without backup.s3.url; set backup.s3.url to the bucket, such as s3://backups/trainingsession" -}}
{{- end -}}
{{- end -}}

{{/* Name of the claim that backups are kept on; empty where they go to a bucket. */}}
{{- define "trainingsession.backup.claim" -}}
{{- if not .Values.backup.s3.url -}}
{{- .Values.backup.persistence.existingClaim | default (printf "%s-backup" (include "trainingsession.fullname" .)) -}}
{{- end -}}
{{- end -}}

{{/* The spec of a pod that makes a backup or restores one. Arguments: root, what (backup or restore). */}}
{{- define "trainingsession.backup.pod" -}}
{{- $own := include "trainingsession.mongodb.own" .root -}}
{{- $ca := include "trainingsession.mongodb.caSecret" .root -}}
{{- $claim := include "trainingsession.backup.claim" .root -}}
{{- $bundle := ternary "" .root.Values.trainer.caBundle.configMap (empty .root.Values.backup.s3.url) -}}
{{- with .root.Values.backup -}}
serviceAccountName: {{ include "trainingsession.fullname" $.root }}-backup
automountServiceAccountToken: false
enableServiceLinks: false
restartPolicy: Never
# What is being written is removed before the end.
terminationGracePeriodSeconds: 30
{{- with include "trainingsession.pullSecrets" $.root }}
{{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: {{ $.what }}
    image: {{ include "trainingsession.operator.image" $.root | quote }}
    imagePullPolicy: {{ $.root.Values.operator.image.pullPolicy }}
    command: [python, -m, trainingsession_operator.backup, {{ if eq $.what "backup" }}make{{ else }}restore{{ end }}]
    args:
      {{- if $own }}
      - --hosts={{ include "trainingsession.mongodb.hosts" $.root }}
      - --replica-set={{ $.root.Values.mongodb.replicaSet }}
      - --credentials=/etc/trainingsession/mongodb-server
      {{- else }}
      - --uri-file=/etc/trainingsession/mongodb-server/uri
      {{- end }}
      {{- if $ca }}
      - --ca-file=/etc/trainingsession/mongodb/ca.crt
      {{- end }}
      {{- if $claim }}
      - --folder=/backups
      {{- else }}
      - --bucket={{ .s3.url }}
      {{- with .s3.endpoint }}
      - --bucket-endpoint={{ . }}
      {{- end }}
      {{- with .s3.region }}
      - --bucket-region={{ . }}
      {{- end }}
      {{- if .s3.secretName }}
      - --bucket-secret=/etc/trainingsession/bucket
      {{- end }}
      {{- if $bundle }}
      - --bucket-ca-file=/etc/trainingsession/ca-bundle/ca-bundle.crt
      {{- end }}
      {{- end }}
      {{- if eq $.what "backup" }}
      - --keep={{ .keep }}
      {{- if .features }}
      - --features
      {{- end }}
      {{- end }}
    {{- $proxy := ternary dict $.root.Values.trainer.proxy (empty .s3.url) }}
    {{- if or (eq $.what "restore") $proxy.http $proxy.https }}
    env:
      {{- if eq $.what "restore" }}
      # Empty: the newest backup, and all databases.
      - name: ARCHIVE
        value: ""
      - name: DATABASE
        value: ""
      {{- end }}
      {{- with $proxy.http }}
      - name: HTTP_PROXY
        value: {{ . | quote }}
      {{- end }}
      {{- with $proxy.https }}
      - name: HTTPS_PROXY
        value: {{ . | quote }}
      {{- end }}
      {{- if or $proxy.http $proxy.https }}
      - name: NO_PROXY
        value: {{ concat (list "localhost" "127.0.0.1" ".svc" ".cluster.local") $proxy.noProxy | join "," | quote }}
      {{- end }}
    {{- end }}
    resources:
      {{- toYaml .resources | nindent 6 }}
    securityContext:
      {{- include "trainingsession.containerSecurityContext" $.root | nindent 6 }}
    volumeMounts:
      - name: server
        mountPath: /etc/trainingsession/mongodb-server
        readOnly: true
      {{- if $ca }}
      - name: authorities
        mountPath: /etc/trainingsession/mongodb
        readOnly: true
      {{- end }}
      {{- if $bundle }}
      - name: ca-bundle
        mountPath: /etc/trainingsession/ca-bundle
        readOnly: true
      {{- end }}
      {{- if $claim }}
      - name: backups
        mountPath: /backups
        readOnly: {{ eq $.what "restore" }}
      {{- else if .s3.secretName }}
      - name: bucket
        mountPath: /etc/trainingsession/bucket
        readOnly: true
      {{- end }}
      - name: tmp
        mountPath: /tmp
volumes:
  - name: server
    secret:
      secretName: {{ if $own }}{{ include "trainingsession.mongodb.serverSecret" $.root }}{{ else }}{{ $.root.Values.mongodb.external.uriSecret }}{{ end }}
      defaultMode: 0440
      items:
        {{- if $own }}
        - {key: username, path: username}
        - {key: password, path: password}
        {{- else }}
        - {key: {{ $.root.Values.mongodb.external.uriKey }}, path: uri}
        {{- end }}
  {{- if $ca }}
  - name: authorities
    secret:
      secretName: {{ $ca }}
      defaultMode: 0440
      items:
        - {key: {{ if $own }}ca.crt{{ else }}{{ $.root.Values.mongodb.external.caKey }}{{ end }}, path: ca.crt}
  {{- end }}
  {{- if $bundle }}
  - name: ca-bundle
    configMap:
      name: {{ $bundle }}
      items:
        - {key: {{ $.root.Values.trainer.caBundle.key }}, path: ca-bundle.crt}
  {{- end }}
  {{- if $claim }}
  - name: backups
    persistentVolumeClaim:
      claimName: {{ $claim }}
  {{- else if .s3.secretName }}
  - name: bucket
    secret:
      secretName: {{ .s3.secretName }}
      defaultMode: 0440
  {{- end }}
  - name: tmp
    emptyDir:
      sizeLimit: 16Mi
{{- end -}}
{{- end -}}

{{/* Selects the pods that make a backup or restore one. */}}
{{- define "trainingsession.backup.podSelector" -}}
matchLabels:
  app.kubernetes.io/name: {{ .Chart.Name }}
  app.kubernetes.io/instance: {{ .Release.Name }}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: [backup, restore]}
{{- end -}}
